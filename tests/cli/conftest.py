"""A tiny data set, its index and a network trained on it, made once for all tests of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL
from conftest import CommandLine
from tiny_datasets import TinyDataset, create_dataset

TRAINING = ("--net", "wsss:tiny", "--crop-size", "32", "--long-side", "32,48", "--batch-size", "4", "--epochs", "1",
            "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    """Return a data set of 12 images of 48 x 64 with two classes, masks and tags. Tests must not change it."""
    return create_dataset(tmp_path_factory.mktemp("tiny") / "pictures", n=12)


@pytest.fixture(scope="session")
def tiny_index(tiny_dataset: TinyDataset) -> Path:
    """Return the index of `tiny_dataset`, one shard of 12 images. Tests must not change it."""
    folder = tiny_dataset.root.parent
    return make_once(folder, folder / "train.h5", "index", "table", tiny_dataset.root / "labels.csv",
                     "--images", tiny_dataset.root / "JPEGImages", "--masks", tiny_dataset.root / "SegmentationClass",
                     "--class-names", tiny_dataset.root / "classes.txt")


@pytest.fixture(scope="session")
def tiny_net(tiny_index: Path) -> Path:
    """Return a classifier trained for one epoch on `tiny_index`. Tests must not change it."""
    return make_once(tiny_index.parent, tiny_index.parent / "cam.safetensors", "train-cls", "cam", tiny_index,
                     *TRAINING)


@pytest.fixture(scope="session")
def maps(tiny_index: Path, tiny_net: Path) -> Path:
    """Return a CAM run of `tiny_index`. Tests must not change it."""
    return make_once(tiny_index.parent, tiny_index.parent / "cams", "cams", "cnn", tiny_index, "--net", tiny_net,
                     *SMALL)


@pytest.fixture(scope="session")
def every_input(tiny_dataset: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with all inputs of `COMMANDS`. Tests may write only the outputs that replace OUT."""
    from cli.every_command import create_inputs
    folder = tmp_path_factory.mktemp("every")
    create_inputs(folder, tiny_dataset)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Return an image file of 40 x 60 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def make_once(cwd: Path, output: Path, *args: object) -> Path:
    """Run a command that must succeed, and return its output."""
    done = CommandLine(cwd)(*args, "-o", output, "-q")
    assert done.code == 0, done.err
    return output
