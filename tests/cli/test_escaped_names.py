"""Names that no font of the system can draw: every command that draws them says once that they become escapes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cli.runner import SMALL, run, run_ok
from stages.data import contact_sheets
from stages.shards import Shard, ShardContents, write_shard

CAT, DOG = "\u732b", "\u72ac"


@pytest.fixture(autouse=True)
def _no_fonts(monkeypatch):
    monkeypatch.setattr(contact_sheets, "load_system_font", lambda characters, size: None)


@pytest.fixture
def index(tiny_index, tmp_path) -> Path:
    """Return the tiny index with Chinese names of the classes."""
    tiny = Shard(tiny_index)
    root = os.path.relpath(tiny_index.parent / tiny.attribute("root"), tmp_path)
    write_shard(tmp_path / "i.h5", ShardContents("index", ("background", CAT, DOG), list(tiny.items()),
                                                 provenance=tiny.provenance, root_attrs={"root": root}))
    return tmp_path / "i.h5"


def check_note(*args: object) -> None:
    done = run(*args)
    assert done.code == 0, done.err
    assert done.err.count("drawn as escapes") == 1, done.err
    assert CAT in done.err and "\\u732b" in done.err


def test_the_matrix_of_cooc(index, tmp_path):
    check_note("cooc", index, "-o", tmp_path / "cooc.h5", "--plot", tmp_path / "cooc.png")
    check_note("show", tmp_path / "cooc.h5", "-o", tmp_path / "again.png")
    assert "escapes" not in run("cooc", index, "-o", tmp_path / "other.h5").err, "nothing is drawn"


def test_the_contact_sheet_of_clusters(index, tiny_net, tmp_path):
    run_ok("features", index, "--net", tiny_net, "-o", tmp_path / "features", *SMALL[2:])
    check_note("cluster", "finch", tmp_path / "features", "-o", tmp_path / "c.h5", "--sheet", tmp_path / "c.png")


def test_pictures_of_image_files(tiny_dataset, tiny_net, tmp_path):
    (tmp_path / "photos").mkdir()
    shutil.copy(tiny_dataset.root / "JPEGImages" / f"{tiny_dataset.ids[0]}.jpg", tmp_path / "photos" / f"{CAT}.jpg")
    check_note("cams", "cnn", tmp_path / "photos", "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)


def test_names_that_can_be_drawn_are_not_reported(tiny_index, tmp_path):
    assert "escapes" not in run("cooc", tiny_index, "-o", tmp_path / "c.h5", "--plot", tmp_path / "c.png").err
