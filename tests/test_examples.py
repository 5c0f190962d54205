"""The examples work: the small reader, the job scripts, and the Makefiles of the papers."""

from __future__ import annotations

import ast
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

from stages.flow.item_arrays import resize_to_image
from stages.shards import KINDS, Item, Shard, ShardContents, write_shard
from stages.shards.items import group_name
from stages.shards.journal import encode_frame
from waiting import PATIENCE, wait_until
from wsss_cli.app import app
from wsss_cli.recipe import read_section

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
READER = EXAMPLES / "read_shard.py"
SCRIPTS = sorted((EXAMPLES / "slurm").glob("*.s*"))
MAPS = ("cams", "cnn", "my train.h5", "-o", "maps")
SIZES = {"square": (48, 48), "café/1": (37, 53), "100%2F": (20, 31), "..": (16, 16)}


def read_with_reader(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Return the arrays that examples/read_shard.py reads from a shard, by group name."""
    monkeypatch.setattr(sys, "argv", [str(READER), str(path)])
    resize_to_image = runpy.run_path(str(READER))["resize_to_image"]
    with h5py.File(path, "r", locking=False) as file:
        return {group: resize_to_image(item) for group, item in file["items"].items()}


def write_cams(path: Path, dtype: type, grid: int, *, included: bool = False) -> Path:
    """Write a shard of random CAMs on a grid that covers more than the image; the last item has failed."""
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
    write_shard(path, ShardContents("cams", ("background", "cat", "dog", "cow"), items, root_attrs=attrs))
    return path


@pytest.mark.parametrize(("dtype", "grid", "included"), [
    (np.float16, 4, False), (np.float16, 16, False), (np.float16, 5, True), (np.uint8, 1, True)])
def test_reader_resizes_cams_like_the_stages(tmp_path, monkeypatch, dtype, grid, included):
    shard = Shard(write_cams(tmp_path / "cams.h5", dtype, grid, included=included), "cams")
    items = read_with_reader(shard.path, monkeypatch)
    assert sorted(items) == sorted(group_name(name) for name in shard.ids if name not in shard.errors)
    for name in set(shard.ids) - set(shard.errors):
        expected, _ = resize_to_image(shard.item(name))
        assert items[group_name(name)].shape == expected.shape
        np.testing.assert_allclose(items[group_name(name)], expected, rtol=0, atol=2e-6)


def test_reader_returns_masks_unchanged(tmp_path, monkeypatch):
    masks = {"a": np.arange(12, dtype=np.uint8).reshape(3, 4), "b": np.full((2, 5), 255, np.uint8)}
    items = [Item(name, {"mask": mask, "confidence": mask // 2}) for name, mask in masks.items()]
    write_shard(tmp_path / "masks.h5", ShardContents("masks", ("background", "cat"), items))
    items = read_with_reader(tmp_path / "masks.h5", monkeypatch)
    assert list(items) == list(masks)
    assert all(np.array_equal(items[name], mask) and items[name].dtype == mask.dtype for name, mask in masks.items())


def test_reader_prints_ids_and_sizes(tmp_path):
    path = write_cams(tmp_path / "cams.h5", np.float16, 4)
    done = subprocess.run([sys.executable, str(READER), str(path)], capture_output=True, encoding="utf-8",
                          env={**os.environ, "PYTHONUTF8": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    printed = dict(line.split("\t") for line in done.stdout.splitlines())
    assert printed == {name: f"(2, {height}, {width})" for name, (height, width) in SIZES.items()} | {
        "no-class": "(0, 12, 16)"}


def test_reader_is_small_and_needs_only_h5py_and_numpy():
    code = READER.read_text(encoding="utf-8")
    assert len(code.splitlines()) <= 20
    assert max(map(len, code.splitlines())) <= 110
    imported = {name.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import) for name in node.names}
    assert imported == {"h5py", "numpy", "sys"}
    assert not [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)]


def start_script(name: str, tmp_path: Path, *args: str, command: str = "wsss", body: str = "exit 0",
                 **environment: str) -> subprocess.Popen:
    """Start a job script in bash, with a `command` and an `scontrol` on PATH that record their arguments.

    tests/slurm runs the scripts on a real SLURM.
    """
    programs = tmp_path / "programs"
    programs.mkdir(exist_ok=True)
    for program, program_body in ((command, body), ("scontrol", "exit 0")):
        record = f'printf "%s\\n" "$@" > "{tmp_path}/{program}.words"'
        (programs / program).write_text(f"#!/bin/bash\n{record}\n{program_body}\n")
        (programs / program).chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "77",
                   "SLURM_CPUS_PER_TASK": "2", "TASKS": "16", **environment}
    return subprocess.Popen(["bash", str(EXAMPLES / "slurm" / name), *args], cwd=tmp_path, env=environment)


def read_arguments(tmp_path: Path, program: str) -> list[str]:
    """Wait until a program on PATH was called, and return its arguments."""
    path = tmp_path / f"{program}.words"
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text().splitlines()


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_job_scripts_are_bash(path):
    done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    head = path.read_text(encoding="utf-8")
    if path.suffix == ".sbatch":
        assert "#SBATCH --open-mode=append\n" in head and "#SBATCH --signal=B:USR1@" in head
    else:
        assert os.access(path, os.X_OK)


@pytest.mark.parametrize(("environment", "jobs"), [({}, "2"), ({"SLURM_GPUS_ON_NODE": "1"}, "1")], ids=["cores", "GPU"])
def test_map_script_passes_task_and_jobs(tmp_path, environment, jobs):
    assert start_script("map.sbatch", tmp_path, *MAPS, **environment).wait(timeout=PATIENCE) == 0
    assert read_arguments(tmp_path, "wsss") == [*MAPS, "--task", "3/16", "--jobs", jobs]
    assert not (tmp_path / "scontrol.words").exists()


@pytest.mark.parametrize("code", [65, 73])
def test_failed_task_is_not_requeued(tmp_path, code):
    assert start_script("map.sbatch", tmp_path, *MAPS, body=f"exit {code}").wait(timeout=PATIENCE) == code
    assert not (tmp_path / "scontrol.words").exists()


def stop_script(tmp_path: Path, name: str, number: signal.Signals, command: str, body: str) -> int:
    """Send a signal to a job script when its command is ready, and return its exit code."""
    job = start_script(name, tmp_path, *MAPS, command=command,
                       body=f"{body}\ntouch ready\nwhile :; do sleep 0.05; done")
    try:
        wait_until((tmp_path / "ready").exists, job)
        job.send_signal(number)
        return job.wait(timeout=PATIENCE)
    finally:
        job.kill()


@pytest.mark.parametrize(("name", "command", "body", "code"), [
    ("map.sbatch", "wsss", "trap 'sleep 0.2; exit 75' USR1", 75), ("map.sbatch", "wsss", "", 138),
    ("train.sbatch", "torchrun", "trap 'sleep 0.2; exit 1' TERM", 1)], ids=["map", "map that starts", "train"])
def test_stopped_task_is_requeued(tmp_path, name, command, body, code):
    """A stopped task exits with 75 (torchrun: any code) after it has finished its batch."""
    assert stop_script(tmp_path, name, signal.SIGUSR1, command, body) == code
    assert read_arguments(tmp_path, "scontrol") == ["requeue", "77"]


@pytest.mark.parametrize(("name", "command"), [("map.sbatch", "wsss"), ("train.sbatch", "torchrun")])
def test_cancelled_task_finishes_its_batch_and_is_not_requeued(tmp_path, name, command):
    assert stop_script(tmp_path, name, signal.SIGTERM, command, "trap 'sleep 0.2; exit 75' TERM") == 75
    assert not (tmp_path / "scontrol.words").exists()


def test_format_examples_are_correct(tmp_path):
    text = (EXAMPLES.parent / "stages" / "shards" / "FORMAT.md").read_text(encoding="utf-8")
    item = Item("a/1", {"mask": np.array([[0, 1, 255]], np.uint8)})
    digest = write_shard(tmp_path / "masks.h5", ShardContents("masks", ("background", "cat"), [item]))
    assert f"`{digest}`" in text
    assert f"`{encode_frame(b'{}').hex()}`" in text
    assert all(f"**`{kind}`**" in text for kind in KINDS)
    named = {array.name for kind in KINDS.values() for array in (*kind.root, *kind.item)}
    named |= {name for kind in KINDS.values() for name in (*kind.root_attrs, *kind.item_attrs)}
    assert [name for name in named if f"`{name}`" not in text] == []


def list_targets(folder: str) -> list[str]:
    """Return the documented targets of a Makefile, with an example of each pattern."""
    lines = (EXAMPLES / folder / "Makefile").read_text(encoding="utf-8").splitlines()
    named = [line.split(":")[0] for line in lines if ": " in line and "## " in line]
    return [name.replace("%", "fmix") for name in named if name != "help"]


@pytest.mark.parametrize("settings", ["published", "small"])
@pytest.mark.parametrize("folder", ["clip-es", "mixing"])
def test_every_documented_target_can_be_planned(tmp_path, folder, settings):
    targets = list_targets(folder)
    assert len(targets) >= 6
    command = ["make", "-n", "-C", EXAMPLES / folder, f"OUT={tmp_path / 'out'}", "WSSS=wsss", "WEIGHTS=w.pth",
               f"SETTINGS={settings}", *targets]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr and done.stdout.count("wsss") >= len(targets)


@pytest.mark.parametrize("settings", ["published", "small"])
@pytest.mark.parametrize("train", ["train", "train_aug"])
def test_rows_of_mixing_use_the_published_networks(tmp_path, settings, train):
    """Options exist, a recipe has a section for its command, and weights given by a tag can be downloaded."""
    wsss = typer.main.get_command(app)
    done = subprocess.run(["make", "-n", "-C", EXAMPLES / "mixing", f"OUT={tmp_path / 'out'}", "WSSS=wsss",
                           "WEIGHTS=w.pth", f"SETTINGS={settings}", f"TRAIN={train}", "table1", "table2"],
                          capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    trained_nets: dict[str, list[str]] = {}
    for arguments in list_commands(done.stdout):
        options = check_options(arguments, wsss)
        command = " ".join(arguments[:1 if arguments[0] in ("train-seg", "features", "eval", "pseudo") else 2])
        values = {word: arguments[index + 1] for index, word in enumerate(arguments[:-1]) if word.startswith("--")}
        section = read_section(values["--config"], command, options) if "--config" in values else {}
        assert section or "--config" not in values, command
        if command.startswith("train-"):
            weights, net = values.get("--weights", ""), values.get("--net", section.get("net", ""))
            trained_nets.setdefault(command, []).append(net)
            assert not net.startswith("wsss:") or weights.endswith((".pth", ".safetensors")), arguments
            assert int(values.get("--epochs", section.get("epochs", 8))) > 0
            if settings == "published" and command == "train-cls fmix":
                assert (values["--epochs"], values["--lr"]) == (("25", "0.1") if train == "train" else ("20", "0.05"))
    net = "wsss:resnet38" if settings == "published" else "torchvision:mobilenet_v2"
    teacher = "timm:vit_base_patch16_224" if settings == "published" else net
    network = "wsss:deeplabv2_resnet101" if settings == "published" else net
    assert {command: sorted(nets) for command, nets in trained_nets.items()} == {
        "train-cls cam": sorted([net, teacher]), **{f"train-cls {method}": [net] for method in (
            "mixup", "fmix", "manifold-mixup")}, "train-cls subcategory": [net] * 2, "train-aff psa": [net] * 6,
        "train-seg": [network] * 6}


@pytest.mark.parametrize(("settings", "rows"), [
    ("published", ("irn", "irn-csd", "mctformer", "mctformer-csd", "mctformer-paste")),
    ("small", ("cam", "cam-csd", "cam-paste"))])
def test_rows_of_csd_can_be_planned(tmp_path, settings, rows):
    """Each row trains a base and then pastes its objects; all options exist."""
    wsss = typer.main.get_command(app)
    single = [f"table1-{row}" for row in rows]
    for target in (*single, "table1", "val", "table2", "figure6", "pairs"):
        done = subprocess.run(["make", "-n", "-C", EXAMPLES / "csd", f"OUT={tmp_path / 'out'}", "WSSS=wsss",
                               f"SETTINGS={settings}", target], capture_output=True, text=True, check=False,
                              timeout=PATIENCE)
        assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
        pasting = [line for line in done.stdout.replace("\\\n", " ").splitlines() if "train-cls csd" in line]
        expected = {"table2": 2, "figure6": 20, "pairs": 1, "table1": len(rows) // 2, "val": len(rows) // 2}
        row = target.partition("-")[2]
        assert len(pasting) == ("-" in row if row else expected[target]), target
        assert all("--masks" in line and ("--cooc" in line) != ("--resampling off" in line) for line in pasting)
        calls = list_commands(done.stdout)
        for command in calls:
            check_options(command, wsss)
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
def plan_target(tmp_path):
    """Return a function that plans a target of image-text: the arguments of its wsss calls, with options checked."""
    (tmp_path / "c.h5").touch()
    wsss = typer.main.get_command(app)

    def plan(target: str, *environment: str) -> list[list[str]]:
        done = subprocess.run(["make", "-n", "-C", EXAMPLES / "image-text", f"OUT={tmp_path / 'out'}", "WSSS=wsss",
                               'TRAIN="wsss"', f"CAPTIONS={tmp_path / 'c.h5'}", *environment, target],
                              capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
        calls = list_commands(done.stdout)
        for call in calls:
            check_options(call, wsss)
        return calls

    return plan


@pytest.mark.parametrize("target", ROWS_OF_TEXT)
def test_trained_rows_of_image_text(plan_target, target):
    calls = plan_target(target)
    names = [" ".join(call[:2]) for call in calls]
    method = "tcl" if target == "table41-tcl" else "code"
    assert names.count(f"train-text {method}") == 1 and names.count(f"segment {method}") == 6
    assert sum(call[0] == "eval" for call in calls) == sum(call[0] == "index" for call in calls) == 6
    assert ROWS_OF_TEXT[target] in " ".join(next(call for call in calls if call[0] == "train-text"))
    off = [word for call in calls for word in call if word.startswith("--no-")]
    assert len(off) == ROWS_OF_TEXT[target].count("--no-")


@pytest.mark.parametrize("method", ["naclip", "sclip", "clearclip", "maskclip", "proxyclip"])
def test_training_free_rows_of_image_text(plan_target, method):
    sets = "voc context object stuff city ade voc20 context59"
    calls = plan_target(f"training-free-{method}", f"SETS={sets}")
    assert not [call for call in calls if call[0] == "train-text"]
    segment_calls = [call for call in calls if call[0] == "segment"]
    assert len(segment_calls) == 8 and all(call[1] == method for call in segment_calls)
    assert [call[1] for call in calls if call[0] == "index"] == [
        "voc", "context", "coco-object", "coco-stuff", "cityscapes", "ade20k", "voc", "context"]
    assert sum("--no-background" in call for call in calls) == 2
    thresholds = {"clearclip": ["0.5", "0.15", "0.4"], "proxyclip": ["0.2", "0.15", "0.25"]}.get(method, [])
    assert [call[call.index("--threshold") + 1] for call in segment_calls if "--threshold" in call] == thresholds
    assert all(("--pamr" in call) == (method == "naclip") for call in segment_calls)
    scales = {call[2].rpartition("/")[2]: call[call.index("--scale") + 1]
              for call in segment_calls if "--scale" in call}
    assert scales == ({"voc.h5": "65", "context.h5": "50", "object.h5": "50"} if method == "sclip" else {})
    small = [(call[2].rpartition("/")[2], call[call.index("--area-threshold") + 1]) for call in segment_calls
             if "--area-threshold" in call]
    assert small == ([("voc.h5", "0.1")] if method == "sclip" else [])


def test_trial_of_image_text(plan_target):
    """Both methods are scored on both folders, after training on the captions of the first."""
    calls = plan_target("trial", "DATA=data", "OTHER=other", "STEPS=7")
    names = [" ".join(call[:2]) for call in calls]
    counts = {name: names.count(name) for name in ("index table", "index voc", "train-text code", "segment code",
                                                   "segment naclip")}
    assert counts == {"index table": 1, "index voc": 2, "train-text code": 1, "segment code": 2, "segment naclip": 2}
    assert [call[0] for call in calls].count("eval") == 4 and [call[0] for call in calls].count("show") == 1
    training = calls[names.index("train-text code")]
    assert training[training.index("--steps") + 1] == "7" and "small.json" in training
    config = EXAMPLES / "image-text" / "small.json"
    assert json.loads(config.read_text())["embed_dim"] == json.loads(config.read_text())["text_cfg"]["width"]


def test_figures_and_documented_targets_of_image_text(plan_target):
    figure_calls = {target: plan_target(target)[-1] for target in ("figure41", "figure42", "figure43")}
    assert all(call[0] == "show" for call in figure_calls.values())
    assert sum("results" in word for word in figure_calls["figure43"]) == 4
    assert plan_target("figure44", "PHOTOS=a.jpg", "WORDS=cat; dog")[-1][:3] == ["segment", "code", "a.jpg"]
    text = (EXAMPLES / "image-text" / "README.md").read_text(encoding="utf-8")
    assert [target for target in list_targets("image-text") if f"`{target}`" not in text] == []
    assert set(ROWS_OF_TEXT) <= set(list_targets("image-text"))


def list_commands(plan: str) -> list[list[str]]:
    """Return the arguments of every wsss call in the output of `make -n`."""
    lines = plan.replace("\\\n", " ").splitlines()
    parts = [part.strip() for line in lines for part in re.split('&&|; (?="wsss")', line)]
    calls = [part for part in parts if part.startswith('"wsss"')]
    return [[word for word in shlex.split(call) if word != ">/dev/null"][1:] for call in calls]


def check_options(arguments: list[str], command: Any) -> set[str]:
    """Check that a command has all options in `arguments`, and return the names of all its options."""
    while arguments and hasattr(command, "commands"):
        assert arguments[0] in command.commands, arguments
        command, arguments = command.commands[arguments[0]], arguments[1:]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in arguments if word.startswith("-") and not word[1:2].isdigit()} <= options
    return {parameter.name for parameter in command.params}
