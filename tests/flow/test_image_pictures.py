"""Pictures of image files: CAMs at a reduced size, and the line on the scores of an image."""

from __future__ import annotations

import numpy as np
import pytest

from stages.flow.image_pictures import describe_scores
from stages.flow.item_arrays import resize_to_image, resize_to_input
from stages.shards import Item

CLASSES = ("background", "cow", "grass", "sky", "cat", "dog", "cup", "bus")


def build_item(size: tuple[int, int], covers: tuple[int, int], cells: tuple[int, int]) -> Item:
    cam = np.random.default_rng(0).random((2, *cells)).astype(np.float16)
    return Item("a", {"class_ids": np.array([1, 3], np.uint16), "cam": cam},
                {"height": size[0], "width": size[1], "covers": np.array(covers)})


@pytest.mark.parametrize("covers", [(40, 60), (48, 64)])
def test_cams_at_the_size_of_the_image_are_those_that_other_stages_read(covers):
    item = build_item((40, 60), covers, (5, 8))
    rows, class_ids = resize_to_input(item, (40, 60))
    np.testing.assert_allclose(rows, resize_to_image(item)[0], atol=1e-6)
    assert class_ids.tolist() == [1, 3]


def test_cams_at_a_reduced_size_are_interpolated_at_the_centres_of_its_pixels():
    item = build_item((40, 60), (48, 64), (6, 8))
    rows, _ = resize_to_input(item, (10, 15))
    assert rows.shape == (2, 10, 15)
    cam = item.datasets["cam"].astype(np.float64)
    for row, column in ((0, 0), (4, 7), (9, 14)):
        y, x = (row + 0.5) * 4 * 6 / 48 - 0.5, (column + 0.5) * 4 * 8 / 64 - 0.5  # cells, from the centre of the first
        y, x = np.clip(y, 0, 5), np.clip(x, 0, 7)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, 5), min(left + 1, 7)
        upper = cam[:, top, left] * (1 - (x - left)) + cam[:, top, right] * (x - left)
        lower = cam[:, bottom, left] * (1 - (x - left)) + cam[:, bottom, right] * (x - left)
        np.testing.assert_allclose(rows[:, row, column], upper * (1 - (y - top)) + lower * (y - top), atol=1e-6)


def test_no_cams_at_a_reduced_size():
    item = build_item((40, 60), (40, 60), (5, 8))
    empty = Item("a", {name: array[:0] for name, array in item.datasets.items()}, item.attrs)
    assert resize_to_input(empty, (4, 6))[0].shape == (0, 4, 6)


@pytest.mark.parametrize(("ids", "scores", "threshold", "line"), [
    ([1, 2], [0.61, 0.98], None, "grass 0.98, cow 0.61"), ([2], [0.7], 0.5, "grass 0.70"),
    ([2], [0.31], 0.5, "no class reaches 0.5; the highest is grass 0.31; choose with --classes"),
    ([2], [0.31], None, "grass 0.31"), ([1, 2], [0.5, 0.6], 0.5, "grass 0.60, cow 0.50"),
    ([], [], 0.5, "no class is selected; choose with --classes"),
    ([1, 2, 3, 4, 5, 6, 7], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], None,
     "bus 0.70, cup 0.60, dog 0.50, cat 0.40, sky 0.30 and 2 more")])
def test_the_line_on_an_image_names_its_classes_by_score(ids, scores, threshold, line):
    ids, scores = np.array(ids, np.uint16), np.array(scores, np.float32)
    assert describe_scores(ids, scores, CLASSES, threshold) == line
