# Everything runs in .venv, which the first target that needs it makes. No shell has to have it active.
SHELL := /bin/sh
.DEFAULT_GOAL := help
# Also under make -j one check after the other: the tests take JOBS processes themselves, and an answer stays in a piece.
.NOTPARALLEL:
.PHONY: help install lint types layers docs docs-reference docs-site unit test test-processors test-gpu test-slurm
.PHONY: test-browser test-crash test-damage test-fuzz test-formats test-crf own demo voc920 msrc
.PHONY: clean bench bench-compare bench-bootstrap bench-cams bench-crf bench-clip-es bench-excel bench-cluster bench-walk
.PHONY: bench-pamr bench-crf-gpu bench-text bench-scale bench-help bench-cooc bench-memory

# A PYTHONPATH or an active environment of the caller would bring other packages in.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

PYTHON ?=
CONSTRAINTS ?= constraints.txt
JOBS ?= 2
OUT ?= runs/$@
EACH ?= 12

# Targets are relative and every absolute path is quoted, so a clone in a folder with blanks works.
absolute = $(if $(filter /%,$(firstword $(1))),$(1),$(CURDIR)/$(1))
STAMP := .venv/.installed
FORMATS_STAMP := .venv-formats/.installed
RUN := .venv/bin/python
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) -m pytest
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))

help: ## this list
	@echo 'make TARGET [PYTHON=python3.12] [JOBS=2] [OUT=FOLDER]'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## make .venv and install wsss into it (CONSTRAINTS=/dev/null: newest versions)

$(STAMP): pyproject.toml constraints.txt
	@if ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11 python3.10); do \
	    if "$$python" -c '$(SUITABLE)' >/dev/null 2>&1; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo 'make: $(if $(PYTHON),$(PYTHON) is not,found no) Python 3.10 to 3.14 with its venv module;' \
	      'install one (Debian: apt-get install python3 python3-venv) or name it: make install PYTHON=FILE' >&2; \
	    exit 1; \
	  fi; \
	  echo "making .venv with $$found"; "$$found" -m venv .venv || exit 1; \
	fi
	@$(RUN) -c '$(SUITABLE)' || { echo 'make: .venv is not of Python 3.10 to 3.14; remove it and run this again' >&2; exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check -c "$(CONSTRAINTS)" -e '.[test]'
	@$(RUN) -m pip install --quiet --disable-pip-version-check -c "$(CONSTRAINTS)" -e '.[crf]' >.venv/crf.log 2>&1 \
	  || echo 'make: without --engine pydensecrf, which needs a C++ compiler (Debian: g++); then: make -B install (.venv/crf.log)'
	@touch $@

lint: $(STAMP) ## ruff: style and errors
	$(RUN) -m ruff check .

types: $(STAMP) ## mypy on the typed part
	$(RUN) -m mypy

layers: $(STAMP) ## who may import whom, sizes, names
	$(PYTEST) -q tests/test_layers.py

docs: $(STAMP) ## links, commands and code in the documentation, and the command reference
	$(PYTEST) -q tests/test_docs.py

docs-reference: $(STAMP) ## write docs/reference from the program
	$(RUN) docs/tools/command_reference.py

docs-site: $(STAMP) ## build the searchable site of the documentation in site/
	@$(RUN) -c 'import material' 2>/dev/null \
	  || $(RUN) -m pip install --quiet --disable-pip-version-check -c "$(CONSTRAINTS)" -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet
	@echo 'site/index.html is the first page; to serve it: python3 -m http.server -d site'

unit: $(STAMP) ## all other tests
	$(PYTEST) -n $(JOBS) --dist worksteal --durations=5 --ignore=tests/test_layers.py --ignore=tests/test_docs.py \
	  --ignore=tests/slurm --ignore=tests/formats --ignore=tests/gpu --ignore=tests/browser

test: lint types layers docs unit ## all of the five above

test-processors: $(STAMP) ## the numerical tests with the instruction sets of older processors (minutes for each)
	@$(RUN) tests/processors.py --jobs $(JOBS)

test-gpu: $(STAMP) ## every command on the GPU of this machine, compared with the CPU; skipped where there is none
	$(PYTEST) -q --durations=5 tests/gpu

test-slurm: $(STAMP) ## job scripts in a SLURM of this one machine, which is installed if root can (Debian)
	timeout --kill-after=30 14m env $(PYTEST) -q --durations=5 --install-slurm tests/slurm

test-browser: $(STAMP) ## the page of report in a headless Chromium, which is installed if root can (Debian)
	timeout --kill-after=30 4m env WSSS_INSTALL_BROWSER=1 $(PYTEST) -q --durations=5 tests/browser

test-damage: $(STAMP) ## every byte of a small file of each kind flipped: told by check, or harmless (a minute)
	OMP_NUM_THREADS=1 $(RUN) tests/shards/every_byte.py

test-fuzz: $(STAMP) ## all readers fuzzed with atheris, guided by coverage (EACH=12 seconds, 31 readers)
	@$(RUN) -c 'import atheris' 2>/dev/null \
	  || $(RUN) -m pip install --quiet --disable-pip-version-check -c "$(CONSTRAINTS)" -e '.[fuzz]'
	OMP_NUM_THREADS=1 timeout 1200 $(RUN) tests/fuzz/run.py --seconds "$(EACH)" --seed 1 --jobs "$(JOBS)"

test-formats: $(FORMATS_STAMP) ## exports read by the other tools' own code, in .venv-formats (two minutes)
	$(PYTEST) -n $(JOBS) -q tests/formats

# The readers that are compared with; without PyTorch, so that it is installed in a minute.
$(FORMATS_STAMP): $(STAMP) tests/formats/requirements.txt tests/formats/requirements-without-dependencies.txt
	@$(RUN) -m venv .venv-formats
	@.venv-formats/bin/python -m pip install --quiet --disable-pip-version-check -r tests/formats/requirements.txt
	@.venv-formats/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  -r tests/formats/requirements-without-dependencies.txt
	@touch $@

test-crf: $(STAMP) ## the dense CRF beside pydensecrf: must agree on 50 photographs of ../shared/data (skipped without)
	@OMP_NUM_THREADS=1 $(RUN) benchmarks/crf.py

test-crash: $(STAMP) ## every command killed, and failed by the disk, at every call that writes (twenty minutes)
	timeout --kill-after=30 24m env OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist worksteal \
	  -m crash --durations=5 tests/crash tests/cli/test_kill.py tests/training/test_command.py

example = $(MAKE) -C examples/$@ WSSS="$(CURDIR)/.venv/bin/wsss" PYTHON="$(CURDIR)/$(RUN)" OUT="$(call absolute,$(OUT))"
inputs = DATA="$(call absolute,$(DATA))" WEIGHTS="$(call absolute,$(WEIGHTS))"
needs = @[ -e "$(DATA)" ] && [ -e "$(WEIGHTS)" ] || { \
	echo 'make: $@ needs files that are there: make $@ DATA=FOLDER WEIGHTS=FILE (DATA=$(DATA), WEIGHTS=$(WEIGHTS))' >&2; exit 2; }

own: $(STAMP) ## your photographs: masks, a network and a report in OUT (IMAGES=FOLDER TAGS=TABLE [WEIGHTS=FILE] [METHOD=cam])
	@[ -n "$(IMAGES)" ] || { echo 'make: own needs your photographs: make own IMAGES=photos TAGS=tags.csv' >&2; exit 2; }
	@[ ! -e "$(OUT)/Makefile" ] || echo 'make: going on with $(OUT)/Makefile as it is; give another OUT to begin anew'
	@[ -e "$(OUT)/Makefile" ] || .venv/bin/wsss init "$(OUT)" --images "$(IMAGES)" $(if $(TAGS),--tags "$(TAGS)") \
	  $(if $(MASKS),--masks "$(MASKS)") $(if $(WEIGHTS),--weights "$(WEIGHTS)") $(if $(METHOD),--method "$(METHOD)") $(INIT)
	@$(MAKE) -C "$(OUT)" WSSS="'$(CURDIR)/.venv/bin/wsss'" && echo "$(call absolute,$(OUT))/report.html"

demo: $(STAMP) ## the whole chain on pictures made on the spot: a table and a contact sheet
	$(example)

voc920: $(STAMP) ## the whole chain on VOC photographs (DATA=FOLDER WEIGHTS=FILE)
	$(needs)
	$(example) $(inputs)

msrc: $(STAMP) ## the same on MSRC photographs (DATA=FOLDER WEIGHTS=FILE)
	$(needs)
	$(example) $(inputs)

bench: $(STAMP) ## all measurements of the CPU next to their goals, in less than twenty minutes (PARTS=pamr,cams JSON=1)
	@$(RUN) benchmarks/run.py $(if $(PARTS),--only "$(PARTS)") $(if $(JSON),--json)

bench-compare: $(STAMP) ## the same on another commit and on this tree, alternately (OLD=COMMIT PARTS=pamr ROUNDS=3)
	@[ -n "$(OLD)" ] || { echo 'make: bench-compare needs a commit: make bench-compare OLD=main PARTS=pamr' >&2; exit 2; }
	@$(RUN) benchmarks/run.py --old "$(OLD)" $(if $(PARTS),--only "$(PARTS)") $(if $(ROUNDS),--rounds "$(ROUNDS)")

bench-cams: $(STAMP) ## the CAMs of a CNN, beside the plain way of IRN's code (CPU seconds, one thread)
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) benchmarks/cams.py

bench-clip-es: $(STAMP) ## what CLIP-ES costs beyond the bare image tower (CPU seconds, one thread)
	@OMP_NUM_THREADS=1 $(RUN) benchmarks/clip_es.py

bench-excel: $(STAMP) ## what ExCEL costs beyond the bare image tower (CPU seconds, one thread)
	@OMP_NUM_THREADS=1 $(RUN) benchmarks/excel.py

bench-crf: $(STAMP) ## what the dense CRF costs beside pydensecrf, one thread (IMAGES=50)
	@OMP_NUM_THREADS=1 $(RUN) benchmarks/crf.py $(if $(IMAGES),--images "$(IMAGES)")

bench-crf-gpu: $(STAMP) ## what the dense CRF costs on a GPU; without one, the bytes that it moves (PRESET=clip-es)
	@$(RUN) benchmarks/crf_gpu.py $(if $(PRESET),--preset "$(PRESET)")

bench-cooc: $(STAMP) ## what wsss cooc costs on 10,582 images, beside an interpreter with h5py
	@$(RUN) benchmarks/cooc.py

bench-memory: $(STAMP) ## peak memory of every command on a photograph of 12 and of 50 megapixels (SIZES="24 MP", ONLY=cams)
	@$(RUN) benchmarks/memory.py $(if $(SIZES),--sizes "$(SIZES)") $(if $(ONLY),--only "$(ONLY)")

bench-help: $(STAMP) ## what wsss --help costs, beside a bare interpreter
	@$(RUN) benchmarks/help.py

bench-cluster: $(STAMP) ## FINCH on 100,000 points, beside finch-clust where that is (FINCH_PYTHON=FILE that has it)
	@$(RUN) benchmarks/cluster.py $(if $(FINCH_PYTHON),--python "$(FINCH_PYTHON)")

bench-walk: $(STAMP) ## the random walks of PSA and IRN, sparse beside dense (FULL=1: all of IRN's squarings, minutes)
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) benchmarks/walk.py $(if $(FULL),--full)

bench-pamr: $(STAMP) ## what pixel-adaptive refinement costs, beside its form with 48 channels (needs 4 GB)
	@OMP_NUM_THREADS=1 $(RUN) benchmarks/pamr.py

bench-text: $(STAMP) ## what the training-free methods cost beyond the bare image tower (CPU seconds, one thread)
	@OMP_NUM_THREADS=1 $(RUN) benchmarks/dense_text.py

bench-bootstrap: $(STAMP) ## the intervals of wsss eval A B: coverage (minutes), and cost for 100,000 images
	@OMP_NUM_THREADS=1 $(RUN) benchmarks/bootstrap.py

bench-scale: $(STAMP) ## 1,000 shards of 100 small images through pseudo and eval: time and memory (SHARDS=1000)
	@$(RUN) benchmarks/scale.py $(if $(SHARDS),--shards "$(SHARDS)")

clean: ## remove caches, build products and runs/demo; .venv and other runs stay
	rm -rf build wsss.egg-info .pytest_cache .mypy_cache .ruff_cache runs/demo
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
