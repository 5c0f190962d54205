"""Commands import what they need: torch, pydantic or a page of plots take longer to import than most of their work."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import CommandLine
from tiny_datasets import TinyDataset
from waiting import PATIENCE

# Runs commands one after the other; a line of standard error for each: exit code and modules that it imported.
RUN_COMMANDS = """
import json, sys
from wsss_cli.__main__ import main
for words in json.loads(sys.argv[1]):
    before, sys.argv, code = set(sys.modules), ["wsss", *words], 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    print(json.dumps([code, sorted(set(sys.modules) - before)]), file=sys.stderr)
"""
COMMANDS = (
    "info train.h5 cams cam.safetensors", "check train.h5 cams cam.safetensors", "cooc train.h5 -q -o cooc.h5",
    "index table pictures/labels.csv -q --images pictures/JPEGImages -o new.h5",
    "index split train.h5 -q --single -o single.h5", "pseudo cams -q -j 1 -o masks", "eval cams -q --json",
    "eval cams -q --background power:2 -o result.json", "eval masks -q", "merge masks -q -o merged.h5",
    "import masks pictures/SegmentationClass --index train.h5 -q -j 1 -o imported",
    "show cams masks -q -o look.png", "show train.h5 -q --count 3 -o sheet.pdf",
    "export png masks -q -o pngs", "export voc masks -q -o voc", "export coco train.h5 -q -o coco",
    "info masks --json", "check masks",
)
HEAVY = {"torch", "torchvision", "timm", "scipy", "sklearn", "nltk", "open_clip", "pydantic", "rich", "email"}
# What photographs in a file don't need: curves, and pictures in a terminal.
OTHER_PICTURES = {"stages.data.curve_plots", "stages.flow.training_charts", "stages.data.terminal_graphics",
                  "stages.data.terminal_panels", "wsss_cli.shared_display"}


@pytest.fixture
def folder(tiny_dataset: TinyDataset, tiny_index: Path, maps: Path, tiny_net: Path, tmp_path: Path) -> Path:
    """Return a folder with a data set, its index, CAMs and the network that made them."""
    shutil.copytree(tiny_dataset.root, tmp_path / "pictures")
    for path in (tiny_index, tiny_net):
        shutil.copy(path, tmp_path / path.name)
    shutil.copytree(maps, tmp_path / "cams")
    return tmp_path


def test_commands_without_a_network_do_not_import_torch(folder):
    words = [command.split() for command in COMMANDS]
    done = subprocess.run([sys.executable, "-c", RUN_COMMANDS, json.dumps(words)], cwd=folder, capture_output=True,
                          text=True, env=CommandLine._environment(None), timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    assert len(lines) == len(COMMANDS), done.stderr
    for command, (code, modules) in zip(COMMANDS, lines, strict=True):
        assert code == 0, f"wsss {command}: {done.stderr}"
        heavy = HEAVY & {name.split(".")[0] for name in modules}
        assert not heavy, f"wsss {command} imports {heavy}"
        if command.startswith(("info", "check")):
            assert "PIL" not in modules, f"wsss {command} decodes no image"
    loaded = {name for _, modules in lines for name in modules}
    assert "wsss_cli.eval" in loaded and "stages.eval.config" in loaded
    assert not {"wsss_cli.segment", "stages.segment.config"} & loaded, "only the commands that run are built"
    assert "stages.show.stage" in loaded and not OTHER_PICTURES & loaded, OTHER_PICTURES & loaded


def test_log_does_not_import_torch(folder):
    words = [["log", "cams", "cam.safetensors"], ["log", "cams", "--format", "tsv"]]
    done = subprocess.run([sys.executable, "-c", RUN_COMMANDS, json.dumps(words)], cwd=folder, capture_output=True,
                          text=True, env=CommandLine._environment(None), timeout=PATIENCE, check=False)
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    assert [code for code, _ in lines] == [0, 0], done.stderr
    assert not HEAVY & {name.split(".")[0] for _, modules in lines for name in modules}


@pytest.mark.parametrize("words", ["info --help", "train-cls cam --help", "eval nothing.h5", "show -o look.png",
                                   "cams cnn train.h5 --net cam.safetensors --batch-size 8 --scales 0.5,1 -n -o cams"])
def test_options_are_converted_without_pydantic(folder, words):
    done = subprocess.run([sys.executable, "-c", RUN_COMMANDS, json.dumps([words.split()])], cwd=folder,
                          capture_output=True, text=True, env=CommandLine._environment(None), timeout=PATIENCE,
                          check=False)
    modules = json.loads(done.stderr.splitlines()[-1])[1]
    assert f"wsss_cli.{words.split()[0].replace('-', '_')}" in modules
    assert "pydantic" not in modules
