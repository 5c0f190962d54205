"""CAMs of an item at the size of the image, whole and in bands of rows."""

from __future__ import annotations

import numpy as np
import pytest

from stages.errors import BadData
from stages.flow.item_arrays import extract_mask, read_image_size, resize_to_image, resize_to_image_in_bands
from stages.shards import Item

SIZE = (37, 50)


def build_item(cam: np.ndarray, covers: tuple[int, int] = (40, 52)) -> Item:
    ids = np.arange(1, len(cam) + 1, dtype=np.uint16)
    return Item("a", {"class_ids": ids, "cam": cam}, {"height": SIZE[0], "width": SIZE[1],
                                                      "covers": np.array(covers)})


def draw_cams(dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    values = np.random.default_rng(3).random(shape)
    return (values * (255 if dtype is np.uint8 else 1)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
@pytest.mark.parametrize(("shape", "covers"), [((2, 10, 13), (40, 52)), ((3, *SIZE), SIZE), ((3, *SIZE), (40, 52)),
                                               ((1, 1, 1), (40, 52)), ((0, 10, 13), (40, 52))])
@pytest.mark.parametrize("band", [0, 1, 8])
def test_bands_equal_the_whole_image(dtype, shape, covers, band):
    item = build_item(draw_cams(dtype, shape), covers)
    expected, expected_ids = resize_to_image(item, 3)
    assert expected.shape == (shape[0], *read_image_size(item)) and expected.dtype == np.float32
    rows_seen = []
    for rows, maps, class_ids in resize_to_image_in_bands(item, 3, band=band):
        np.testing.assert_array_equal(maps, expected[:, rows])
        np.testing.assert_array_equal(class_ids, expected_ids)
        rows_seen += range(SIZE[0])[rows]
    assert rows_seen == list(range(SIZE[0]))
    if dtype is np.uint8 and shape[1:] == SIZE == covers:
        np.testing.assert_array_equal(expected, item.datasets["cam"].astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("read", [resize_to_image, lambda *args: next(resize_to_image_in_bands(*args))],
                         ids=["whole", "bands"])
def test_bad_cams_are_rejected_before_the_first_band(read, monkeypatch):
    monkeypatch.setattr("stages.flow.item_arrays._CHECKED_VALUES", 100)
    cam = draw_cams(np.float16, (2, 10, 13))
    cam[1, -1, -1] = np.nan
    with pytest.raises(BadData, match="not finite"):
        read(build_item(cam), 3)
    with pytest.raises(BadData, match="do not match"):
        read(build_item(draw_cams(np.float16, (3, 2, 2))), 2)


def test_masks_may_hold_classes_and_the_ignore_index_of_their_type():
    for dtype, ignore in ((np.uint8, 255), (np.uint16, 65535)):
        mask = np.array([[0, 3, ignore]], dtype)
        np.testing.assert_array_equal(extract_mask(Item("a", {"mask": mask}), 3), mask)
        with pytest.raises(BadData, match=r"class 3, but the classes are 0\.\.2"):
            extract_mask(Item("a", {"mask": mask}), 2)
