"""The examples that train with other libraries run, and learn."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import wsss
from conftest import ONE_THREAD, ROOT, CommandLine
from tiny_datasets import create_dataset

EXAMPLES = ROOT / "examples" / "python"


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """Return an index of 8 images with ground truth."""
    folder = tmp_path_factory.mktemp("trainers")
    create_dataset(folder / "set", n=8)
    result = wsss.index.table(folder / "set" / "labels.csv", images=folder / "set" / "JPEGImages",
                              masks=folder / "set" / "SegmentationClass",
                              class_names=folder / "set" / "classes.txt", output=folder / "train.h5")
    return result.path


def run_script(name: str, *args: object) -> str:
    """Run an example in a process of its own, and return what it prints."""
    environment = {**CommandLine._environment(None), **ONE_THREAD}
    done = subprocess.run([sys.executable, EXAMPLES / name, *map(str, args)], capture_output=True, encoding="utf-8",
                          env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_deeplab_of_torchvision(index, tmp_path):
    printed = run_script("train_deeplab.py", index, "--steps", 12, "--batch-size", 4, "--crop-size", 48, "--workers", 0,
                         "-o", tmp_path / "deeplab")
    first, last = map(float, re.search(r"loss ([\d.]+) -> ([\d.]+) on 8 images", printed).groups())
    assert last < first
    run = wsss.open_run(tmp_path / "deeplab", "masks")
    assert len(run) == 8 and run[0].size == (48, 64)
    assert run.provenance[-1]["config"]["note"] == "DeepLabV3 of torchvision, 12 steps"
    assert wsss.eval(tmp_path / "deeplab").value["images"] == 8


def test_lightning(index):
    pytest.importorskip("lightning")
    assert "'loss': " in run_script("train_lightning.py", index, 1)
