"""`wsss train-cls` where the classification falls apart, and where it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.runner import good, refused, run
from pictures import make_folder

SMALL = ("--net", "wsss:tiny", "--crop-size", "32", "--long-side", "32,48", "--batch-size", "20", "--threads", "1",
         "--device", "cpu", "--freeze-bn", "no", "--optimizer", "adamw", "--head-lr-factor", "1")


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    """Return an index of 100 pictures of four classes: enough to be judged."""
    folder = make_folder(tmp_path_factory.mktemp("hundred") / "pictures", 100,
                         classes=("background", "cat", "dog", "cow", "bus"))
    path = folder.root.parent / "train.h5"
    good("index", "table", folder.root / "labels.csv", "--images", folder.root / "JPEGImages", "--class-names",
         folder.root / "classes.txt", "-o", path)
    return path


@pytest.mark.parametrize(("method", "tried"), [("cam", "try a smaller --lr or --clip 1"),
                                               ("mixup", "try a smaller --lambda-con or --lambda-ent or --lr")])
def test_a_net_that_says_the_same_of_all_images_is_no_result(index, tmp_path, method, tried):
    net = tmp_path / "cam.safetensors"
    train = ("train-cls", method, index, *SMALL, "--lr", "0", "--epochs", "3", "-o", net)
    told = refused(run(*train), 65, "cam.safetensors", "collapsed at epoch 3: its mAP is 0.", "chance gives 0.", tried,
                   "--keep-going")
    assert not net.exists() and (tmp_path / "cam.safetensors.part").exists()
    assert refused(run(*train), 65) == told
    assert "collapsed at epoch 3" in run(*train, "--keep-going").err
    assert net.exists() and not (tmp_path / "cam.safetensors.part").exists()
    log = [json.loads(line) for line in (tmp_path / "cam.log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3, 3, 3]
    assert log[2]["map"] == log[3]["map"] == log[4]["map"] == pytest.approx(log[2]["map_of_chance"])


@pytest.mark.parametrize("method", ["cam", "mixup", "fmix", "manifold-mixup"])
def test_a_short_training_that_learns_is_left_alone(index, tmp_path, method):
    good("train-cls", method, index, *SMALL, "--lr", "0.003", "--epochs", "4", "-o", tmp_path / "cam.safetensors")
    log = [json.loads(line) for line in (tmp_path / "cam.log.jsonl").read_text().splitlines()]
    assert log[-1]["map"] > log[-1]["map_of_chance"] + 3 * log[-1]["map_of_chance_sd"]


def test_too_few_pictures_are_not_judged(tiny_index, tmp_path):
    good("train-cls", "cam", tiny_index, *SMALL, "--lr", "0", "--epochs", "3", "-o", tmp_path / "cam.safetensors")
