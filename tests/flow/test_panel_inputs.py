"""CAMs and masks at the size of a panel: the same places as at full size, whatever `covers` and the resolution are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stages.errors import BadData
from stages.flow.panel_inputs import RunReader
from stages.kernels.background import parse_background
from stages.shards import Item, Run, ShardContents, write_shard

CLASSES = ("background", "cat", "dog", "cow")


def write_cams(folder: Path, item: Item, background: str = "none") -> Run:
    write_shard(folder / "cams.h5", ShardContents("cams", CLASSES, [item], index_digest="0" * 64, index_path="i.h5",
                                                  root_attrs={"background": background}))
    return Run([folder / "cams.h5"])


def build_item(cam: np.ndarray, size: tuple[int, int], covers: tuple[int, int], **datasets: np.ndarray) -> Item:
    ids = np.arange(1, len(cam) + 1, dtype="<u2")
    return Item("a", {"class_ids": ids, "cam": cam, **datasets},
                {"height": size[0], "width": size[1], "covers": np.array(covers)})


def build_ramp(height: int, width: int) -> np.ndarray:
    """Return a map that rises from the left to the right and from the top to the bottom."""
    rows, columns = np.mgrid[:height, :width]
    return ((rows + 0.5) / height * 0.5 + (columns + 0.5) / width * 0.5)[None]


@pytest.mark.parametrize("shape", [(10, 20), (60, 120), (600, 1200)])
def test_maps_of_any_resolution_give_the_same_panel(tmp_path, shape):
    run = write_cams(tmp_path, build_item(build_ramp(*shape).astype(np.float16), (600, 1200), (600, 1200)))
    maps, class_ids, scores = RunReader(run).read_maps("a", (60, 120))
    assert (class_ids.tolist(), scores) == ([1], None)
    inside = (slice(4, -4), slice(4, -4))  # maps repeat their first and last cell at the border
    assert np.abs(maps[0][inside] - build_ramp(60, 120)[0][inside]).max() < 0.006


def test_maps_that_cover_more_than_the_image_are_cropped(tmp_path):
    """Maps of 40 x 60 pixels, of which the image has the upper left quarter."""
    run = write_cams(tmp_path, build_item(build_ramp(20, 30).astype(np.float16), (20, 30), (40, 60)))
    maps = RunReader(run).read_maps("a", (40, 60)).maps
    assert np.abs(maps[0][4:, 4:] - build_ramp(80, 120)[0][4:40, 4:60]).max() < 0.02


def test_cams_become_masks_under_a_rule_or_with_their_own_background(tmp_path):
    cam = np.zeros((2, 4, 4), np.float16)
    cam[0, :, :2], cam[1, :, 2:] = 0.6, 0.2
    run = write_cams(tmp_path, build_item(cam, (4, 4), (4, 4)))
    assert not RunReader(run).can_read_masks
    with pytest.raises(ValueError, match="rule"):
        RunReader(run).read_mask("a", (4, 4))
    reader = RunReader(run, parse_background("constant:0.3"))
    assert reader.read_mask("a", (4, 4)).tolist() == [[1, 1, 0, 0]] * 4 and reader.can_read_masks
    undecided = RunReader(run, parse_background("two-thresholds:0.1,0.3")).read_mask("a", (4, 4))
    assert undecided.dtype == np.uint8 and undecided.tolist() == [[1, 1, 255, 255]] * 4
    item = Item("a", {"class_ids": np.array([0, 3], "<u2"), "cam": cam}, {"height": 4, "width": 4,
                                                                         "covers": np.array([4, 4])})
    included = RunReader(write_cams(tmp_path, item, "included"))
    assert included.read_mask("a", (4, 4)).tolist() == [[0, 0, 3, 3]] * 4 and included.can_read_masks


def test_scores_are_read_with_the_maps_and_alone(tmp_path):
    scores = np.array([0.9, 0.1], "<f4")
    run = write_cams(tmp_path, build_item(np.zeros((2, 3, 3), np.float16), (3, 3), (3, 3), scores=scores))
    reader = RunReader(run)
    selected = reader.read_maps("a", (3, 3)).select((2,))
    assert selected.class_ids.tolist() == [2] and selected.scores.tolist() == pytest.approx([0.1])
    assert reader.read_scores("a")[1].tolist() == pytest.approx([0.9, 0.1])
    wrong = write_cams(tmp_path, build_item(np.zeros((2, 3, 3), np.float16), (3, 3), (3, 3), scores=scores[:1]))
    for read in (lambda: RunReader(wrong).read_scores("a"), lambda: RunReader(wrong).read_maps("a", (3, 3))):
        with pytest.raises(BadData, match="1 scores for 2 CAMs"):
            read()


def test_problems_of_images_are_described(tmp_path):
    write_shard(tmp_path / "m.h5", ShardContents("masks", CLASSES, [Item("a", {"mask": np.zeros((2, 2), np.uint8)}),
                                                                    Item("b", error="broken")],
                                                 index_digest="0" * 64, index_path="i.h5"))
    reader = RunReader(Run([tmp_path / "m.h5"]))
    assert [reader.find_problem(name) for name in "abc"] == ["", "failed: broken", "not in this run"]
