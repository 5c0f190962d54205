"""A tiny data set with runs and networks of it, made once by the commands, for the tests of the Python interface."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import TRAINING, run_ok
from tiny_datasets import create_dataset


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `set` (8 images of 48 x 64), train.h5, cam.safetensors, cams, masks and seg.safetensors.

    The image picture_007 is damaged after it was indexed, so it fails in every run. Tests must not change these files.
    """
    folder = tmp_path_factory.mktemp("api")
    create_dataset(folder / "set", n=8)
    run_ok("index", "table", "set/labels.csv", "--images", "set/JPEGImages", "--masks", "set/SegmentationClass",
           "--class-names", "set/classes.txt", "-o", "train.h5", "-q", cwd=folder)
    run_ok("train-cls", "cam", "train.h5", *TRAINING, "-o", "cam.safetensors", "-q", cwd=folder)
    (folder / "set" / "JPEGImages" / "picture_007.jpg").write_bytes(b"damaged")
    run_ok("cams", "cnn", "train.h5", "--net", "cam.safetensors", "--scales", "1,0.5", "--device", "cpu",
           "--shard-size", "3", "-j", "1", "--allow-errors", "1", "-o", "cams", "-q", cwd=folder)
    run_ok("pseudo", "cams", "--allow-errors", "1", "-j", "1", "-o", "masks", "-q", cwd=folder)
    run_ok("train-seg", "train.h5", "--masks", "masks", *TRAINING, "-o", "seg.safetensors", "-q", cwd=folder)
    return folder


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to `folder`, and return it."""
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a photograph of 60 x 80 whose EXIF orientation turns it to 80 x 60 (H x W)."""
    path = tmp_path_factory.mktemp("photo") / "turned.jpg"
    pixels = np.random.default_rng(3).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(pixels).resize((80, 60), Image.Resampling.BICUBIC).save(data, "JPEG", exif=exif)
    path.write_bytes(data.getvalue())
    return path
