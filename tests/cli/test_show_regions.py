"""`wsss show` of regions: outlines over the photograph, the number of regions, next to other runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, run, run_ok

SIZE = (48, 64)
LEFT_TOP = (6, 10)
NUM_REGIONS = 4


@pytest.fixture
def regions(tiny_dataset, tiny_index, tmp_path) -> Path:
    """Return regions of the whole tiny set: four rectangles, and a margin of no region."""
    labels = np.zeros(SIZE, np.uint16)
    labels[6:24, 10:30], labels[6:24, 30:50], labels[24:40, 10:30], labels[24:40, 30:50] = 1, 2, 900, 5
    (tmp_path / "files").mkdir()
    for item_id in tiny_dataset.ids:
        Image.fromarray(labels).save(tmp_path / "files" / f"{item_id}.png")
    run_ok("import", "regions", tmp_path / "files", "--index", tiny_index, "-o", tmp_path / "regions")
    return tmp_path / "regions"


def read_panel(path: Path, column: int, cell_width: int, top: int) -> np.ndarray:
    """Return the panel (48, 64) in a column of a picture that `--cell 64` made."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    left = 16 + column * (cell_width + 8)
    return pixels[top:top + SIZE[0], left:left + SIZE[1]]


def test_one_photograph_has_a_panel_with_outlines(regions, tmp_path):
    run_ok("show", regions, "--ids", "picture_002", "--cell", 64, "-o", tmp_path / "look.png")
    top = 12 + 26 + 26  # margin, heading, title
    photograph, panel = (read_panel(tmp_path / "look.png", column, 140, top) for column in (0, 1))
    changed = (photograph != panel).any(axis=2)
    inside = np.zeros(SIZE, bool)
    for rows in (slice(7, 23), slice(25, 39)):
        for columns in (slice(11, 29), slice(31, 49)):
            inside[rows, columns] = True
    assert not changed[inside].any()
    assert changed[24:40, 30].all() and changed[23, 10:50].all(), "the lines between regions"
    assert changed[:6].mean() > 0.9, "the margin is covered with grey"


def test_regions_stand_next_to_masks(regions, tiny_index, tiny_dataset, tmp_path):
    run_ok("import", "masks", tiny_dataset.root / "SegmentationClass", "--index", tiny_index, "-o", tmp_path / "masks")
    lines = run_ok("show", tmp_path / "masks", regions, "--count", 2, "--terminal", "--columns", 60)
    assert [line.split() for line in lines].count(["photograph", "masks", "regions"]) == 2
    run_ok("show", regions, "--count", 12, "--cell", 1000, "-o", tmp_path / "grid.png")
    assert len(list(tmp_path.glob("grid*.png"))) > 1


def test_the_number_of_regions_is_written(regions):
    lines = run_ok("show", regions, "--ids", "picture_002", "--terminal", "--columns", 40)
    assert f"{NUM_REGIONS} regions" in lines
    lines = run_ok("show", regions, "--count", 2, "--terminal", "--columns", 40)
    assert sum(f"{NUM_REGIONS} regions" in line for line in lines) == 2
    lines = run_ok("show", regions, regions, "--titles", "sam,slic", "--count", 2, "--terminal", "--columns", 60)
    assert sum("sam: 4 regions   slic: 4 regions" in line for line in lines) == 2


@pytest.mark.parametrize(("options", "words"), [
    (("--classes", "cat"), "--classes does not apply to regions"),
    (("--background", "constant:0.3"), "--background does not apply to regions"),
    (("--sort", "iou"), "--sort iou needs a run of masks or CAMs")])
def test_options_of_classes_do_not_apply(options, words, regions, tmp_path):
    check_error(run("show", regions, *options, "-o", tmp_path / "x.png"), 2, words)
    assert not (tmp_path / "x.png").exists()
