"""Copy-paste between two pictures: what is copied, pixel by pixel, and the way back to where it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.data.augment import square_view
from stages.data.paste import PasteView, paste_pair

SAME = PasteView(crop=32, short_side=32, flip=0.0, fill=(7, 8, 9))


def noise(seed: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def smooth() -> np.ndarray:
    """Red grows to the right and green downwards, so that a colour tells its place."""
    down, across = np.indices((32, 32))
    return np.stack([8 * across, 8 * down, np.full((32, 32), 200)], 2).astype(np.uint8)


def box(rows: slice, columns: slice, value: int = 3) -> np.ndarray:
    mask = np.zeros((32, 32), np.uint8)
    mask[rows, columns] = value
    return mask


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_what_is_pasted_where_pixel_by_pixel():
    single, multi = noise(1), noise(2)
    mask, into = box(slice(4, 12), slice(6, 20)), box(slice(10, 30), slice(15, 32), 1)
    mask[0], into[31] = 255, 255
    mask[20, 20] = 2  # another class of the single-label image is neither object nor background
    pair = paste_pair((single, mask), (multi, into), 3, generator(), SAME)
    for row, column in np.ndindex(32, 32):
        is_object = mask[row, column] == 3
        is_around = mask[row, column] == 0 and into[row, column] == 0
        assert pair.object[row, column] == is_object
        assert pair.surroundings[row, column] == is_around
        assert (pair.foreground[row, column] == (single if is_object else multi)[row, column]).all()
        assert (pair.background[row, column] == (single if is_around else multi)[row, column]).all()
    np.testing.assert_array_equal(pair.back, [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(pair.single, single)
    np.testing.assert_array_equal(pair.multi, multi)


def test_both_views_are_drawn_on_their_own_and_as_the_training_of_a_mask():
    single, multi = noise(1, (40, 70)), noise(2, (60, 50))
    masks = [np.random.default_rng(3).integers(0, 2, size, dtype=np.uint8) for size in ((40, 70), (60, 50))]
    settings = replace(SAME, short_side=36, flip=0.5)
    pair = paste_pair((single, masks[0]), (multi, masks[1]), 1, generator(5), settings)
    rng = generator(5)
    views = [square_view(image, mask, 36, 32, rng, fill=(7, 8, 9)) for image, mask in zip((single, multi), masks,
                                                                                         strict=True)]
    np.testing.assert_array_equal(pair.single, views[0][0])
    np.testing.assert_array_equal(pair.multi, views[1][0])
    np.testing.assert_array_equal(pair.object, views[0][1] == 1)


def test_square_view():
    image, mask = noise(4, (20, 50)), np.random.default_rng(4).integers(0, 9, (20, 50), dtype=np.uint8)
    view, view_mask = square_view(image, mask, 20, 16, generator(1), probability=0.0)
    places = [(top, left) for top in range(5) for left in range(35)
              if (image[top:top + 16, left:left + 16] == view).all()]
    assert len(places) == 1
    top, left = places[0]
    np.testing.assert_array_equal(view_mask, mask[top:top + 16, left:left + 16])
    mirrored, mirrored_mask = square_view(image, mask, 20, 16, generator(1), probability=1.0)
    np.testing.assert_array_equal(mirrored, view[:, ::-1])
    np.testing.assert_array_equal(mirrored_mask, view_mask[:, ::-1])
    small, small_mask = square_view(image, mask, 10, 64, generator(2), probability=0.0, fill=(1, 2, 3))
    inside = small_mask != 255
    assert inside.sum() == 10 * 25
    assert (small[~inside] == (1, 2, 3)).all()
    wide = square_view(image, mask.astype(np.uint16), 10, 64, generator(2))[1]
    assert wide.dtype == np.uint16 and (wide == 65535).sum() == 64 * 64 - 250


@pytest.mark.parametrize("settings", [
    replace(SAME, placement="random"), replace(SAME, scale=(0.5, 0.5)), replace(SAME, rotation=90.0),
    replace(SAME, placement="random", scale=(0.6, 1.5), rotation=180.0)], ids=["placed", "half", "turned", "all"])
def test_a_moved_object_is_seen_where_its_way_back_leads(settings):
    image, mask = smooth(), box(slice(8, 20), slice(10, 22))
    for seed in range(8):
        pair = paste_pair((image, mask), (noise(2), np.zeros((32, 32), np.uint8)), 3, generator(seed), settings)
        assert pair.object.sum() > 20
        grid = F.affine_grid(torch.from_numpy(pair.back)[None], [1, 3, 32, 32], align_corners=False)
        maps = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
        seen = F.grid_sample(maps, grid, align_corners=False, padding_mode="border")[0].numpy().transpose(1, 2, 0)
        assert np.abs(pair.foreground.astype(float) - seen)[pair.object].max() <= 1.5
        back = F.grid_sample(torch.from_numpy((mask == 3).astype(np.float32))[None, None], grid, mode="nearest",
                             align_corners=False)[0, 0].numpy() > 0
        assert (back != pair.object).mean() < 0.01
        np.testing.assert_array_equal(pair.foreground[~pair.object], pair.multi[~pair.object])
        # The background stays where it was, around the place that the object left.
        np.testing.assert_array_equal(pair.surroundings, mask == 0)


def test_a_half_is_half_and_anywhere_is_anywhere():
    mask = box(slice(8, 20), slice(10, 22))
    half = paste_pair((smooth(), mask), (noise(2), mask), 3, generator(), replace(SAME, scale=(0.5, 0.5)))
    assert half.object.sum() == 36 and half.object[11:17, 13:19].all()
    places = set()
    for seed in range(200):
        pair = paste_pair((smooth(), mask), (noise(2), mask), 3, generator(seed), replace(SAME, placement="random"))
        rows, columns = np.nonzero(pair.object)
        assert 100 <= pair.object.sum() <= 144
        places.add((int(rows.min()), int(columns.min())))
    tops, lefts = (sorted({place[axis] for place in places}) for axis in (0, 1))
    assert tops[0] == lefts[0] == 0 and tops[-1] >= 19 and lefts[-1] >= 19


def test_no_object_and_no_background():
    full, none = np.full((32, 32), 3, np.uint8), np.zeros((32, 32), np.uint8)
    moving = replace(SAME, placement="random", scale=(0.5, 2.0), rotation=90.0)
    for settings in (SAME, moving):
        pair = paste_pair((noise(1), none), (noise(2), none), 3, generator(), settings)
        np.testing.assert_array_equal(pair.foreground, pair.multi)
        assert not pair.object.any() and pair.surroundings.all()
        pair = paste_pair((noise(1), full), (noise(2), none), 3, generator(), settings)
        np.testing.assert_array_equal(pair.background, pair.multi)
        assert not pair.surroundings.any() and pair.object.any()
