"""`wsss train-cls` from the command line when the classification collapses, and when it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.runner import check_error, run, run_ok
from tiny_datasets import create_dataset

SMALL = ("--net", "wsss:tiny", "--crop-size", "32", "--long-side", "32,48", "--batch-size", "20", "--threads", "1",
         "--device", "cpu", "--freeze-bn", "no", "--optimizer", "adamw", "--head-lr-factor", "1")


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """Return an index of 100 images of four classes: enough to detect a collapse."""
    folder = create_dataset(tmp_path_factory.mktemp("hundred") / "images", 100,
                         classes=("background", "cat", "dog", "cow", "bus"))
    path = folder.root.parent / "train.h5"
    run_ok("index", "table", folder.root / "labels.csv", "--images", folder.root / "JPEGImages", "--class-names",
         folder.root / "classes.txt", "-o", path)
    return path


@pytest.mark.parametrize(("method", "remedy"), [("cam", "Use a smaller --lr or --clip 1"),
                                               ("mixup", "Use a smaller --lambda-con or --lambda-ent or --lr")])
def test_collapsed_training_writes_no_network_unless_keep_going(index, tmp_path, method, remedy):
    net = tmp_path / "cam.safetensors"
    arguments = ("train-cls", method, index, *SMALL, "--lr", "0", "--epochs", "3", "-o", net)
    error = check_error(run(*arguments), 65, "cam.safetensors", "collapsed at epoch 3: its mAP is 0.",
                        "chance gives 0.", remedy, "--keep-going")
    assert not net.exists() and (tmp_path / "cam.safetensors.part").exists()
    assert check_error(run(*arguments), 65) == error
    assert "collapsed at epoch 3" in run(*arguments, "--keep-going").err
    assert net.exists() and not (tmp_path / "cam.safetensors.part").exists()
    log = [json.loads(line) for line in (tmp_path / "cam.log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3, 3, 3]
    assert log[2]["map"] == log[3]["map"] == log[4]["map"] == pytest.approx(log[2]["map_of_chance"])


@pytest.mark.parametrize("method", ["cam", "mixup", "fmix", "manifold-mixup"])
def test_short_training_that_learns_is_no_collapse(index, tmp_path, method):
    run_ok("train-cls", method, index, *SMALL, "--lr", "0.003", "--epochs", "4", "-o", tmp_path / "cam.safetensors")
    log = [json.loads(line) for line in (tmp_path / "cam.log.jsonl").read_text().splitlines()]
    assert log[-1]["map"] > log[-1]["map_of_chance"] + 3 * log[-1]["map_of_chance_sd"]


def test_few_images_are_not_checked_for_collapse(tiny_index, tmp_path):
    run_ok("train-cls", "cam", tiny_index, *SMALL, "--lr", "0", "--epochs", "3", "-o", tmp_path / "cam.safetensors")
