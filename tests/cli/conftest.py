"""One tiny data set, its index and a net trained on it, made once for all tests of the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL
from conftest import CommandLine
from pictures import Folder, make_folder

TRAINING = ("--net", "wsss:tiny", "--crop-size", "32", "--long-side", "32,48", "--batch-size", "4", "--epochs", "1",
            "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Return a data set of 12 pictures of 48 x 64 with two classes, their masks and tags. Not to be changed."""
    return make_folder(tmp_path_factory.mktemp("tiny") / "pictures", n=12)


@pytest.fixture(scope="session")
def tiny_index(tiny_folder: Folder) -> Path:
    """Return the index of `tiny_folder`, one shard of 12 images. Not to be changed."""
    folder = tiny_folder.root.parent
    return _made(folder, folder / "train.h5", "index", "table", tiny_folder.root / "labels.csv",
                 "--images", tiny_folder.root / "JPEGImages", "--masks", tiny_folder.root / "SegmentationClass",
                 "--class-names", tiny_folder.root / "classes.txt")


@pytest.fixture(scope="session")
def tiny_net(tiny_index: Path) -> Path:
    """Return a classifier trained for one pass over `tiny_index`. Not to be changed."""
    return _made(tiny_index.parent, tiny_index.parent / "cam.safetensors", "train-cls", "cam", tiny_index, *TRAINING)


@pytest.fixture(scope="session")
def maps(tiny_index: Path, tiny_net: Path) -> Path:
    """Return a run of class activation maps of `tiny_index`. Not to be changed."""
    return _made(tiny_index.parent, tiny_index.parent / "cams", "cams", "cnn", tiny_index, "--net", tiny_net, *SMALL)


@pytest.fixture(scope="session")
def every_input(tiny_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with everything that `COMMANDS` name. Not to be changed but below what their OUT becomes."""
    from cli.every_command import make_place
    folder = tmp_path_factory.mktemp("every")
    make_place(folder, tiny_folder)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """Return an image file of 40 x 60 pixels."""
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def _made(cwd: Path, output: Path, *args: object) -> Path:
    done = CommandLine(cwd)(*args, "-o", output, "-q")
    assert done.code == 0, done.err
    return output
