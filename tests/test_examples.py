"""The examples do what they say: the small reader, and the job scripts."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import typer

from stages import STAGES, errors
from stages.flow.maps import full_size
from stages.shards import KINDS, Contents, Item, Shard, write_shard
from stages.shards.items import group_name
from stages.shards.journal import frame
from waiting import PATIENCE, wait_until
from wsss_cli.app import app
from wsss_cli.recipe import section

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
READER = EXAMPLES / "read_shard.py"
SCRIPTS = sorted((EXAMPLES / "slurm").glob("*.s*"))
MAPS = ("cams", "cnn", "my train.h5", "-o", "maps")
SIZES = {"square": (48, 48), "café/1": (37, 53), "100%2F": (20, 31), "..": (16, 16)}


def read(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Return what examples/read_shard.py makes of the items of a shard, by group name."""
    monkeypatch.setattr(sys, "argv", [str(READER), str(path)])
    full_size = runpy.run_path(str(READER))["full_size"]
    with h5py.File(path, "r", locking=False) as file:
        return {group: full_size(item) for group, item in file["items"].items()}


def cams_shard(path: Path, dtype: type, grid: int, *, included: bool = False) -> Path:
    """Write a cams shard of random maps on a grid that spans more than the image; the last item is refused."""
    random = np.random.default_rng(3)
    items = []
    for name, (height, width) in SIZES.items():
        cells = (-(-height // grid), -(-width // grid))
        rows = random.random((2, *cells))
        cam = np.round(rows * 255).astype(np.uint8) if dtype == np.uint8 else rows.astype(dtype)
        attrs = {"height": height, "width": width, "covers": np.array([grid * cells[0], grid * cells[1]])}
        items.append(Item(name, {"class_ids": np.array([0 if included else 1, 3], "<u2"), "cam": cam}, attrs))
    empty = {"class_ids": np.zeros(0, "<u2"), "cam": np.zeros((0, 3, 4), dtype)}
    items.append(Item("no-class", empty, {"height": 12, "width": 16, "covers": np.array([12, 16])}))
    items.append(Item("bad", error="can't be read"))
    attrs = {"background": "included" if included else "none"}
    write_shard(path, Contents("cams", ("background", "cat", "dog", "cow"), items, root_attrs=attrs))
    return path


@pytest.mark.parametrize(("dtype", "grid", "included"), [
    (np.float16, 4, False), (np.float16, 16, False), (np.float16, 5, True), (np.uint8, 1, True)])
def test_the_reader_gives_the_maps_that_the_stages_see(tmp_path, monkeypatch, dtype, grid, included):
    shard = Shard(cams_shard(tmp_path / "cams.h5", dtype, grid, included=included), "cams")
    found = read(shard.path, monkeypatch)
    assert sorted(found) == sorted(group_name(name) for name in shard.ids if name not in shard.errors)
    for name in set(shard.ids) - set(shard.errors):
        wanted, _ = full_size(shard.item(name))
        assert found[group_name(name)].shape == wanted.shape
        np.testing.assert_allclose(found[group_name(name)], wanted, rtol=0, atol=2e-6)


def test_the_reader_gives_masks_as_they_are(tmp_path, monkeypatch):
    masks = {"a": np.arange(12, dtype=np.uint8).reshape(3, 4), "b": np.full((2, 5), 255, np.uint8)}
    items = [Item(name, {"mask": mask, "confidence": mask // 2}) for name, mask in masks.items()]
    write_shard(tmp_path / "masks.h5", Contents("masks", ("background", "cat"), items))
    found = read(tmp_path / "masks.h5", monkeypatch)
    assert list(found) == list(masks)
    assert all(np.array_equal(found[name], mask) and found[name].dtype == mask.dtype for name, mask in masks.items())


def test_the_reader_prints_ids_and_sizes(tmp_path):
    path = cams_shard(tmp_path / "cams.h5", np.float16, 4)
    done = subprocess.run([sys.executable, str(READER), str(path)], capture_output=True, encoding="utf-8",
                          env={**os.environ, "PYTHONUTF8": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    printed = dict(line.split("\t") for line in done.stdout.splitlines())
    assert printed == {name: f"(2, {height}, {width})" for name, (height, width) in SIZES.items()} | {
        "no-class": "(0, 12, 16)"}


def test_the_reader_is_as_small_as_it_says():
    code = READER.read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 20
    assert max(map(len, code.splitlines())) <= 110
    imported = {name.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"h5py", "numpy", "sys"}
    assert not [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]


def script(name: str, tmp_path: Path, *args: str, command: str = "wsss", body: str = "exit 0",
           **more: str) -> subprocess.Popen:
    """Start a job script under plain bash, with a `command` and an `scontrol` on PATH that write down their words.

    What a real SLURM makes of them stands in tests/slurm.
    """
    programs = tmp_path / "programs"
    programs.mkdir(exist_ok=True)
    for program, does in ((command, body), ("scontrol", "exit 0")):
        (programs / program).write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > "{tmp_path}/{program}.words"\n{does}\n')
        (programs / program).chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "77",
                   "SLURM_CPUS_PER_TASK": "2", "TASKS": "16", **more}
    return subprocess.Popen(["bash", str(EXAMPLES / "slurm" / name), *args], cwd=tmp_path, env=environment)


def words(tmp_path: Path, program: str) -> list[str]:
    """Return what a program on PATH was called with, waiting for it."""
    place = tmp_path / f"{program}.words"
    wait_until(lambda: place.exists() and place.read_text().endswith("\n"))
    return place.read_text().splitlines()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_job_scripts_are_bash(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    head = path.read_text(encoding="utf-8")
    if path.suffix == ".sbatch":
        assert "#SBATCH --open-mode=append\n" in head and "#SBATCH --signal=B:USR1@" in head
    else:
        assert os.access(path, os.X_OK)


@pytest.mark.parametrize(("more", "jobs"), [({}, "2"), ({"SLURM_GPUS_ON_NODE": "1"}, "1")], ids=["cores", "GPU"])
def test_the_maps_of_a_task(tmp_path, more, jobs):
    assert script("map.sbatch", tmp_path, *MAPS, **more).wait(timeout=PATIENCE) == 0
    assert words(tmp_path, "wsss") == [*MAPS, "--task", "3/16", "--jobs", jobs]
    assert not (tmp_path / "scontrol.words").exists()


@pytest.mark.parametrize("code", [65, 73])
def test_a_failed_task_says_so_and_is_not_queued_again(tmp_path, code):
    assert script("map.sbatch", tmp_path, *MAPS, body=f"exit {code}").wait(timeout=PATIENCE) == code
    assert not (tmp_path / "scontrol.words").exists()


def stopped(tmp_path: Path, name: str, number: signal.Signals, command: str, body: str) -> int:
    """Send a signal to a job script when its command is ready, and return its exit code."""
    job = script(name, tmp_path, *MAPS, command=command, body=f"{body}\ntouch ready\nwhile :; do sleep 0.05; done")
    try:
        wait_until((tmp_path / "ready").exists, job)
        job.send_signal(number)
        return job.wait(timeout=PATIENCE)
    finally:
        job.kill()


@pytest.mark.parametrize(("name", "command", "body", "code"), [
    ("map.sbatch", "wsss", "trap 'sleep 0.2; exit 75' USR1", 75), ("map.sbatch", "wsss", "", 138),
    ("train.sbatch", "torchrun", "trap 'sleep 0.2; exit 1' TERM", 1)], ids=["map", "map that starts", "train"])
def test_the_signal_before_the_end_reaches_wsss_and_the_task_is_queued_again(tmp_path, name, command, body, code):
    """A stopped task ends with 75 (torchrun: with any) after a moment of finishing."""
    assert stopped(tmp_path, name, signal.SIGUSR1, command, body) == code
    assert words(tmp_path, "scontrol") == ["requeue", "77"]


@pytest.mark.parametrize(("name", "command"), [("map.sbatch", "wsss"), ("train.sbatch", "torchrun")])
def test_what_is_cancelled_finishes_its_batch_and_is_not_queued_again(tmp_path, name, command):
    assert stopped(tmp_path, name, signal.SIGTERM, command, "trap 'sleep 0.2; exit 75' TERM") == 75
    assert not (tmp_path / "scontrol.words").exists()


def test_the_worked_examples_of_the_format(tmp_path):
    told = (EXAMPLES.parent / "stages" / "shards" / "FORMAT.md").read_text(encoding="utf-8")
    item = Item("a/1", {"mask": np.array([[0, 1, 255]], np.uint8)})
    digest = write_shard(tmp_path / "masks.h5", Contents("masks", ("background", "cat"), [item]))
    assert f"`{digest}`" in told
    assert f"`{frame(b'{}').hex()}`" in told
    assert all(f"**`{kind}`**" in told for kind in KINDS)
    named = {array.name for kind in KINDS.values() for array in (*kind.root, *kind.item)}
    named |= {name for kind in KINDS.values() for name in (*kind.root_attrs, *kind.item_attrs)}
    assert [name for name in named if f"`{name}`" not in told] == []


def test_the_readme_has_the_table_of_stages():
    told = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in told.splitlines() if line.startswith("|")]
    table = [row for row in rows if len(row) == 5 and row[0].startswith("`")]
    kinds = {"map": "per shard", "reduce": "of all"}
    assert table == [[f"`{one.name}`", one.reads, one.writes, kinds[one.kind], one.line] for one in STAGES]


def test_the_readme_has_every_command():
    told = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8").partition("## Commands")[2]
    for stage in STAGES:
        module = importlib.import_module(f"wsss_cli.{stage.folder}")
        methods = [one.name for one in module.app.registered_commands] if hasattr(module, "app") else [""]
        assert [name for name in methods if f"| `wsss {stage.name} {name}".rstrip() not in told] == []


def test_the_readme_has_every_exit_code():
    told = (EXAMPLES.parent / "README.md").read_text(encoding="utf-8").partition("## Errors")[2]
    codes = {kind.code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "code")}
    assert [code for code in sorted(codes | {0, 130, 141}) if f"\n| {code} | " not in told] == []


def targets_of(folder: str) -> list[str]:
    """Return the targets that a Makefile explains, with the rows that a pattern stands for."""
    lines = (EXAMPLES / folder / "Makefile").read_text(encoding="utf-8").splitlines()
    named = [line.split(":")[0] for line in lines if ": " in line and "## " in line]
    return [name.replace("%", "fmix") for name in named if name != "help"]


@pytest.mark.parametrize("settings", ["published", "small"])
@pytest.mark.parametrize("folder", ["clip-es", "mixing"])
def test_every_target_of_a_papers_makefile_can_be_planned(tmp_path, folder, settings):
    targets = targets_of(folder)
    assert len(targets) >= 6
    command = ["make", "-n", "-C", EXAMPLES / folder, f"OUT={tmp_path / 'out'}", "WSSS=wsss", "WEIGHTS=w.pth",
               f"SETTINGS={settings}", *targets]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr and done.stdout.count("wsss") >= len(targets)


@pytest.mark.parametrize("settings", ["published", "small"])
@pytest.mark.parametrize("train", ["train", "train_aug"])
def test_every_row_of_mixing_is_of_the_networks_that_it_names(tmp_path, settings, train):
    """Options are known, a recipe that is named has a section for the command, and weights by a tag can be fetched."""
    whole = typer.main.get_command(app)
    done = subprocess.run(["make", "-n", "-C", EXAMPLES / "mixing", f"OUT={tmp_path / 'out'}", "WSSS=wsss",
                           "WEIGHTS=w.pth", f"SETTINGS={settings}", f"TRAIN={train}", "table1", "table2"],
                          capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    trained: dict[str, list[str]] = {}
    for words in commands_of(done.stdout):
        known = options_of(words, whole)
        command = " ".join(words[:1 if words[0] in ("train-seg", "features", "eval", "pseudo") else 2])
        last = {word: words[place + 1] for place, word in enumerate(words[:-1]) if word.startswith("--")}
        told = section(last["--config"], command, known) if "--config" in last else {}
        assert told or "--config" not in last, command
        if command.startswith("train-"):
            weights, net = last.get("--weights", ""), last.get("--net", told.get("net", ""))
            trained.setdefault(command, []).append(net)
            assert not net.startswith("wsss:") or weights.endswith((".pth", ".safetensors")), words
            assert int(last.get("--epochs", told.get("epochs", 8))) > 0
            if settings == "published" and command == "train-cls fmix":
                assert (last["--epochs"], last["--lr"]) == (("25", "0.1") if train == "train" else ("20", "0.05"))
    net = "wsss:resnet38" if settings == "published" else "torchvision:mobilenet_v2"
    teacher = "timm:vit_base_patch16_224" if settings == "published" else net
    network = "wsss:deeplabv2_resnet101" if settings == "published" else net
    assert {command: sorted(nets) for command, nets in trained.items()} == {
        "train-cls cam": sorted([net, teacher]), **{f"train-cls {method}": [net] for method in (
            "mixup", "fmix", "manifold-mixup")}, "train-cls subcategory": [net] * 2, "train-aff psa": [net] * 6,
        "train-seg": [network] * 6}


@pytest.mark.parametrize(("settings", "rows"), [
    ("published", ("irn", "irn-csd", "mctformer", "mctformer-csd", "mctformer-paste")),
    ("small", ("cam", "cam-csd", "cam-paste"))])
def test_every_row_of_csd_can_be_planned(tmp_path, settings, rows):
    """Each in its own: a base, then what it makes is cut out and pasted; `wsss` knows the options that are given."""
    whole = typer.main.get_command(app)
    single = [f"table1-{row}" for row in rows]
    for target in (*single, "table1", "val", "table2", "figure6", "pairs"):
        done = subprocess.run(["make", "-n", "-C", EXAMPLES / "csd", f"OUT={tmp_path / 'out'}", "WSSS=wsss",
                               f"SETTINGS={settings}", target], capture_output=True, text=True, check=False,
                              timeout=PATIENCE)
        assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
        pasting = [line for line in done.stdout.replace("\\\n", " ").splitlines() if "train-cls csd" in line]
        wanted = {"table2": 2, "figure6": 20, "pairs": 1, "table1": len(rows) // 2, "val": len(rows) // 2}
        row = target.partition("-")[2]
        assert len(pasting) == ("-" in row if row else wanted[target]), target
        assert all("--masks" in line and ("--cooc" in line) != ("--resampling off" in line) for line in pasting)
        calls = commands_of(done.stdout)
        for command in calls:
            options_of(command, whole)
        if (settings, target) == ("published", "val"):
            networks = [Path(call[call.index("--config") + 1]).name for call in calls if call[0] == "train-seg"]
            assert networks == 2 * ["deeplab-v2.toml"] + 2 * ["resnet38-largefov.toml"]


ROWS_OF_TEXT = {
    "table41-tcl": "train-text tcl", "table41-code": "", "table42-c-w-r": "",
    "table42-baseline": "--no-co-decomposition --no-word-prompt --no-region-prompt",
    "table42-c": "--no-word-prompt --no-region-prompt", "table42-c-w": "--no-region-prompt",
    **{f"table43-{value}": f"--lambda-hcl {value}" for value in ("0.05", "0.1", "0.25", "0.75", "1.0")},
    "table43-0.5": "", "nouns-alone": "--regions-with nouns"}


@pytest.fixture
def planned(tmp_path):
    """Return what plans a target of image-text: the words of its calls of wsss, each with options that it knows."""
    (tmp_path / "c.h5").touch()
    whole = typer.main.get_command(app)

    def plan(target: str, *more: str) -> list[list[str]]:
        done = subprocess.run(["make", "-n", "-C", EXAMPLES / "image-text", f"OUT={tmp_path / 'out'}", "WSSS=wsss",
                               'TRAIN="wsss"', f"CAPTIONS={tmp_path / 'c.h5'}", *more, target],
                              capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
        calls = commands_of(done.stdout)
        for call in calls:
            options_of(call, whole)
        return calls

    return plan


@pytest.mark.parametrize("target", ROWS_OF_TEXT)
def test_a_trained_row_of_image_text(planned, target):
    calls = planned(target)
    names = [" ".join(call[:2]) for call in calls]
    trained = "tcl" if target == "table41-tcl" else "code"
    assert names.count(f"train-text {trained}") == 1 and names.count(f"segment {trained}") == 6
    assert sum(call[0] == "eval" for call in calls) == sum(call[0] == "index" for call in calls) == 6
    assert ROWS_OF_TEXT[target] in " ".join(next(call for call in calls if call[0] == "train-text"))
    off = [word for call in calls for word in call if word.startswith("--no-")]
    assert len(off) == ROWS_OF_TEXT[target].count("--no-")


@pytest.mark.parametrize("method", ["naclip", "sclip", "clearclip", "maskclip", "proxyclip"])
def test_a_row_of_image_text_without_training(planned, method):
    sets = "voc context object stuff city ade voc20 context59"
    calls = planned(f"training-free-{method}", f"SETS={sets}")
    assert not [call for call in calls if call[0] == "train-text"]
    segmented = [call for call in calls if call[0] == "segment"]
    assert len(segmented) == 8 and all(call[1] == method for call in segmented)
    assert [call[1] for call in calls if call[0] == "index"] == [
        "voc", "context", "coco-object", "coco-stuff", "cityscapes", "ade20k", "voc", "context"]
    assert sum("--no-background" in call for call in calls) == 2
    thresholds = {"clearclip": ["0.5", "0.15", "0.4"], "proxyclip": ["0.2", "0.15", "0.25"]}.get(method, [])
    assert [call[call.index("--threshold") + 1] for call in segmented if "--threshold" in call] == thresholds
    assert all(("--pamr" in call) == (method == "naclip") for call in segmented)
    scales = {call[2].rpartition("/")[2]: call[call.index("--scale") + 1] for call in segmented if "--scale" in call}
    assert scales == ({"voc.h5": "65", "context.h5": "50", "object.h5": "50"} if method == "sclip" else {})
    small = [(call[2].rpartition("/")[2], call[call.index("--area-threshold") + 1]) for call in segmented
             if "--area-threshold" in call]
    assert small == ([("voc.h5", "0.1")] if method == "sclip" else [])


def test_the_trial_of_image_text(planned):
    """Both methods are scored on both folders, after a training on the captions of the first."""
    calls = planned("trial", "DATA=data", "OTHER=other", "STEPS=7")
    names = [" ".join(call[:2]) for call in calls]
    counted = {name: names.count(name) for name in ("index table", "index voc", "train-text code", "segment code",
                                                    "segment naclip")}
    assert counted == {"index table": 1, "index voc": 2, "train-text code": 1, "segment code": 2, "segment naclip": 2}
    assert [call[0] for call in calls].count("eval") == 4 and [call[0] for call in calls].count("show") == 1
    trained = calls[names.index("train-text code")]
    assert trained[trained.index("--steps") + 1] == "7" and "small.json" in trained
    config = EXAMPLES / "image-text" / "small.json"
    assert json.loads(config.read_text())["embed_dim"] == json.loads(config.read_text())["text_cfg"]["width"]


def test_the_figures_of_image_text_and_its_list(planned):
    shown = {target: planned(target)[-1] for target in ("figure41", "figure42", "figure43")}
    assert all(call[0] == "show" for call in shown.values())
    assert sum("results" in word for word in shown["figure43"]) == 4
    assert planned("figure44", "PHOTOS=a.jpg", "WORDS=cat; dog")[-1][:3] == ["segment", "code", "a.jpg"]
    told = (EXAMPLES / "image-text" / "README.md").read_text(encoding="utf-8")
    assert [target for target in targets_of("image-text") if f"`{target}`" not in told] == []
    assert set(ROWS_OF_TEXT) <= set(targets_of("image-text"))


def commands_of(planned: str) -> list[list[str]]:
    """Return the words of every call of wsss among the planned lines."""
    lines = planned.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split('&&|; (?="wsss")', line)]
    calls = [part for part in parts if part.startswith('"wsss"')]
    return [[word for word in shlex.split(call) if word != ">/dev/null"][1:] for call in calls]


def options_of(words: list[str], command: Any) -> set[str]:
    """Check that a command has all the options that it is given, and return the names of its own."""
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, words
        command, words = command.commands[words[0]], words[1:]
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    assert {word for word in words if word.startswith("-") and not word[1:2].isdigit()} <= known
    return {one.name for one in command.params}
