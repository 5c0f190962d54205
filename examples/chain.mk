# The whole chain, from image tags to a segmentation network: the rules that the examples share.
#
# The Makefile of an example says what is different in it, and runs these rules inside the folder OUT, so that all
# names here are relative. A recipe makes a run and scores it; the scores are its target, so whatever is there
# already is not made again, and an interrupted chain goes on where it was. Changed flags run their step and those
# after it; wsss then says what differs from the run that is there: take another OUT, or FORCE=--force to replace it.
#
# With AFF_FLAGS the maps walk over affinities learnt from them, before the CRF that makes the pseudo masks.
#
# Reads  DATA (VOC layout), EXAMPLES (the folder of this file), WSSS, PYTHON, SEED, SEEDS, the *_FLAGS, the *_VALUES.
# Writes train.h5 val.h5, and in seedN: cam.safetensors cams crf-V affinity.safetensors walked refined-V pseudo
#        seg.safetensors prediction *.json

SHELL := /bin/sh
# Also under make -j one step after the other: each takes all cores by itself (maps a process a core, trainings a thread
# a core), or the one GPU.
.NOTPARALLEL:
.PHONY: all seeds ceiling table sheet
.SECONDARY:
# An index that refused most of its images is written all the same; the next make shall not take it for made.
.DELETE_ON_ERROR:

TRAIN ?= train
VAL ?= val
LABELS ?= labels.csv
CLASS_NAMES ?= classes.txt
SEED ?= 0
SEEDS ?= 0 1 2
S := seed$(SEED)

# Idle threads of OpenMP sleep instead of spinning: as fast alone; with the cores shared training took a quarter of
# the processor time (30 s instead of 113 s for 4 epochs of the demo's classifier on 2 cores).
export OMP_WAIT_POLICY ?= PASSIVE
export OMP_NUM_THREADS ?= 1

# $(call step,TEXT,COMMANDS): a line with the time they took. What they say goes to the log, and to the terminal
# when they fail.
step = @mkdir -p $(@D)/log; log=$(@D)/log/$(@F).txt; printf '  %-44s' '$(1)'; start=$$(date +%s); \
	if ( $(2) ) >$$log 2>&1 </dev/null; then echo "$$(( $$(date +%s) - start )) s"; \
	else code=$$?; echo failed; cat $$log >&2; exit $$code; fi
score = "$(WSSS)" eval $(1) -q -o $@
rows = $(foreach seed,$(1),"CAM@train=seed$(seed)/cam.json" "CAM + CRF@train=seed$(seed)/crf.json" \
	"CAM + affinity@train=seed$(seed)/walked.json" "CAM + affinity + CRF@train=seed$(seed)/refined.json" \
	"pseudo masks@train=seed$(seed)/pseudo.json" "segmentation network@val=seed$(seed)/seg.json" \
	"the same on true masks@val=seed$(seed)/ceiling.json")
table = @echo; "$(PYTHON)" "$(EXAMPLES)/table.py" --skip-missing $(call rows,$(1)); \
	echo 'Backgrounds were chosen on the truth of train (pseudo masks have that of the CRF): optimistic by that one'; \
	echo 'number. val was only scored.'

all: $(S)/crf.json $(S)/seg.json ## the chain for SEED
	$(call table,$(SEED))

seeds: ## CAM, CRF and pseudo masks for all SEEDS
	@for seed in $(SEEDS); do \
		$(MAKE) --no-print-directory -f "$(EXAMPLES)/chain.mk" SEED=$$seed seed$$seed/crf.json seed$$seed/pseudo.json \
			|| exit; \
	done
	$(call table,$(SEEDS))

ceiling: $(S)/ceiling.json ## the same network on the true masks of train
	$(call table,$(SEED))

table: ## what is there
	$(call table,$(SEEDS))

space := $(subst ,, )
include $(subst $(space),\ ,$(EXAMPLES))/given.mk

index = set --; [ ! -e "$(DATA)/$(LABELS)" ] || set -- "$$@" --labels "$(DATA)/$(LABELS)"; \
	[ ! -e "$(DATA)/$(CLASS_NAMES)" ] || set -- "$$@" --class-names "$(DATA)/$(CLASS_NAMES)"; \
	[ -z "$(MASKS)" ] || set -- "$$@" --masks "$(DATA)/$(MASKS)"; \
	"$(WSSS)" index voc "$(DATA)" --split $(1) "$$@" $(FORCE) -o $@

train.h5: $(call given,DATA TRAIN LABELS CLASS_NAMES MASKS)
	$(call step,index of $(TRAIN),$(call index,$(TRAIN)))

val.h5: $(call given,DATA VAL LABELS CLASS_NAMES MASKS)
	$(call step,index of $(VAL),$(call index,$(VAL)))

$(S)/cam.safetensors: train.h5 $(call given,WEIGHTS CLS_FLAGS)
	$(call step,classifier on image tags (seed $(SEED)),set --; [ -z "$(WEIGHTS)" ] || set -- --weights "$(WEIGHTS)"; \
		"$(WSSS)" train-cls cam train.h5 "$$@" $(CLS_FLAGS) --seed $(SEED) $(FORCE) -o $@)

$(S)/cam.json: $(S)/cam.safetensors $(call given,CAM_FLAGS)
	$(call step,CAMs,"$(WSSS)" cams cnn train.h5 --net $< $(CAM_FLAGS) $(FORCE) -o $(S)/cams && $(call score,$(S)/cams))

$(S)/crf-%.json: $(S)/cam.json $(call given,CRF_FLAGS)
	$(call step,CRF with background $*,"$(WSSS)" refine crf $(S)/cams --background constant:$* $(CRF_FLAGS) $(FORCE) \
		-o $(S)/crf-$* && $(call score,$(S)/crf-$*))

# Also crf.best: the value chosen.
$(S)/crf.json: $(CRF_VALUES:%=$(S)/crf-%.json) $(call given,CRF_VALUES)
	@"$(PYTHON)" "$(EXAMPLES)/best.py" $(foreach value,$(CRF_VALUES),constant:$(value)=$(S)/crf-$(value).json) \
		-o $@.part >$(S)/crf.best && mv $@.part $@

$(S)/affinity.safetensors: $(S)/cam.json $(call given,AFF_FLAGS)
	$(call step,affinities between neighbouring cells,"$(WSSS)" train-aff psa train.h5 --cams $(S)/cams \
		--weights $(S)/cam.safetensors $(AFF_FLAGS) --seed $(SEED) $(FORCE) -o $@)

$(S)/walked.json: $(S)/affinity.safetensors $(call given,WALK_FLAGS)
	$(call step,random walk,"$(WSSS)" refine psa $(S)/cams --net $< $(WALK_FLAGS) $(FORCE) -o $(S)/walked \
		&& $(call score,$(S)/walked))

$(S)/refined-%.json: $(S)/walked.json $(call given,CRF_FLAGS)
	$(call step,CRF after it with background $*,"$(WSSS)" refine crf $(S)/walked --background constant:$* $(CRF_FLAGS) \
		$(FORCE) -o $(S)/refined-$* && $(call score,$(S)/refined-$*))

$(S)/refined.json: $(REFINED_VALUES:%=$(S)/refined-%.json) $(call given,REFINED_VALUES)
	@"$(PYTHON)" "$(EXAMPLES)/best.py" $(foreach value,$(REFINED_VALUES),constant:$(value)=$(S)/refined-$(value).json) \
		-o $@.part >$(S)/refined.best && mv $@.part $@

# From the last of the refinements.
LAST := $(if $(AFF_FLAGS),refined,crf)
$(S)/pseudo.json: $(S)/$(LAST).json $(call given,AFF_FLAGS PSEUDO_FLAGS)
	$(call step,pseudo masks,best=$$(cat $(S)/$(LAST).best); "$(WSSS)" pseudo $(S)/$(LAST)-$${best#*:} $(PSEUDO_FLAGS) $(FORCE) \
		-o $(S)/pseudo && $(call score,$(S)/pseudo))

$(S)/seg.safetensors: $(S)/pseudo.json $(call given,SEG_FLAGS)
	$(call step,segmentation network on pseudo masks,"$(WSSS)" train-seg train.h5 --masks $(S)/pseudo \
		--weights $(S)/cam.safetensors $(SEG_FLAGS) --seed $(SEED) $(FORCE) -o $@)

$(S)/seg.json: $(S)/seg.safetensors val.h5 $(call given,SEGMENT_FLAGS)
	$(call step,predictions on $(VAL),"$(WSSS)" segment net val.h5 --net $< $(SEGMENT_FLAGS) $(FORCE) -o $(S)/prediction \
		&& $(call score,$(S)/prediction))

$(S)/ceiling.safetensors: $(S)/cam.safetensors $(call given,SEG_FLAGS)
	$(call step,segmentation network on true masks,"$(WSSS)" train-seg train.h5 --masks truth \
		--weights $(S)/cam.safetensors $(SEG_FLAGS) --seed $(SEED) $(FORCE) -o $@)

$(S)/ceiling.json: $(S)/ceiling.safetensors val.h5 $(call given,SEGMENT_FLAGS)
	$(call step,predictions of that on $(VAL),"$(WSSS)" segment net val.h5 --net $< $(SEGMENT_FLAGS) $(FORCE) \
		-o $(S)/ceiling-prediction && $(call score,$(S)/ceiling-prediction))

# For people: maps and pseudo masks of validation images, made as those of train, beside the predictions.
$(S)/sheet.png: $(S)/seg.json $(call given,SHEET_FLAGS)
	$(call step,contact sheet,best=$$(cat $(S)/$(LAST).best); mkdir -p $(S)/val && \
		"$(WSSS)" cams cnn val.h5 --net $(S)/cam.safetensors $(CAM_FLAGS) --force -o $(S)/val/CAM \
		$(if $(AFF_FLAGS),| "$(WSSS)" refine psa - --net $(S)/affinity.safetensors $(WALK_FLAGS) --force -o $(S)/val/walked) \
		| "$(WSSS)" refine crf - --background "$$best" $(CRF_FLAGS) --force -o $(S)/val/crf \
		| "$(WSSS)" pseudo - $(PSEUDO_FLAGS) --force -o '$(S)/val/pseudo mask' \
		&& "$(WSSS)" show $(S)/val/CAM '$(S)/val/pseudo mask' $(S)/prediction --truth $(SHEET_FLAGS) -o $@)

sheet: $(S)/sheet.png
	@echo "$(CURDIR)/$(S)/sheet.png"
