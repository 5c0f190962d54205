"""Copy-paste between two images: the copied pixels, and the affine map back to their old positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stages.data.augment import sample_square_view
from stages.data.copy_paste import PasteSettings, paste_pair

SAME = PasteSettings(crop=32, short_side=32, flip=0.0, fill=(7, 8, 9))


def noise(seed: int, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def gradient() -> np.ndarray:
    """An image whose red increases to the right and green downwards, so that a colour identifies its position."""
    y, x = np.indices((32, 32))
    return np.stack([8 * x, 8 * y, np.full((32, 32), 200)], 2).astype(np.uint8)


def box(rows: slice, columns: slice, value: int = 3) -> np.ndarray:
    mask = np.zeros((32, 32), np.uint8)
    mask[rows, columns] = value
    return mask


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_pasted_pixel():
    single, multi = noise(1), noise(2)
    mask, multi_mask = box(slice(4, 12), slice(6, 20)), box(slice(10, 30), slice(15, 32), 1)
    mask[0], multi_mask[31] = 255, 255
    mask[20, 20] = 2  # another class of the single-label image is neither object nor background
    pair = paste_pair((single, mask), (multi, multi_mask), 3, generator(), SAME)
    for row, column in np.ndindex(32, 32):
        is_object = mask[row, column] == 3
        is_background = mask[row, column] == 0 and multi_mask[row, column] == 0
        assert pair.object_mask[row, column] == is_object
        assert pair.background_mask[row, column] == is_background
        assert (pair.foreground[row, column] == (single if is_object else multi)[row, column]).all()
        assert (pair.background[row, column] == (single if is_background else multi)[row, column]).all()
    np.testing.assert_array_equal(pair.inverse_affine, [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(pair.single, single)
    np.testing.assert_array_equal(pair.multi, multi)


def test_views_are_drawn_independently_with_their_masks():
    single, multi = noise(1, (40, 70)), noise(2, (60, 50))
    masks = [np.random.default_rng(3).integers(0, 2, size, dtype=np.uint8) for size in ((40, 70), (60, 50))]
    settings = replace(SAME, short_side=36, flip=0.5)
    pair = paste_pair((single, masks[0]), (multi, masks[1]), 1, generator(5), settings)
    rng = generator(5)
    views = [sample_square_view(image, mask, 36, 32, rng, fill=(7, 8, 9))
             for image, mask in zip((single, multi), masks, strict=True)]
    np.testing.assert_array_equal(pair.single, views[0][0])
    np.testing.assert_array_equal(pair.multi, views[1][0])
    np.testing.assert_array_equal(pair.object_mask, views[0][1] == 1)


def test_square_view():
    image, mask = noise(4, (20, 50)), np.random.default_rng(4).integers(0, 9, (20, 50), dtype=np.uint8)
    view, view_mask = sample_square_view(image, mask, 20, 16, generator(1), probability=0.0)
    positions = [(top, left) for top in range(5) for left in range(35)
              if (image[top:top + 16, left:left + 16] == view).all()]
    assert len(positions) == 1
    top, left = positions[0]
    np.testing.assert_array_equal(view_mask, mask[top:top + 16, left:left + 16])
    mirrored, mirrored_mask = sample_square_view(image, mask, 20, 16, generator(1), probability=1.0)
    np.testing.assert_array_equal(mirrored, view[:, ::-1])
    np.testing.assert_array_equal(mirrored_mask, view_mask[:, ::-1])
    small, small_mask = sample_square_view(image, mask, 10, 64, generator(2), probability=0.0, fill=(1, 2, 3))
    inside = small_mask != 255
    assert inside.sum() == 10 * 25
    assert (small[~inside] == (1, 2, 3)).all()
    wide = sample_square_view(image, mask.astype(np.uint16), 10, 64, generator(2))[1]
    assert wide.dtype == np.uint16 and (wide == 65535).sum() == 64 * 64 - 250


@pytest.mark.parametrize("settings", [
    replace(SAME, placement="random"), replace(SAME, scale=(0.5, 0.5)), replace(SAME, rotation=90.0),
    replace(SAME, placement="random", scale=(0.6, 1.5), rotation=180.0)], ids=["placed", "half", "rotated", "all"])
def test_a_moved_object_is_where_its_inverse_affine_says(settings):
    image, mask = gradient(), box(slice(8, 20), slice(10, 22))
    for seed in range(8):
        pair = paste_pair((image, mask), (noise(2), np.zeros((32, 32), np.uint8)), 3, generator(seed), settings)
        assert pair.object_mask.sum() > 20
        grid = F.affine_grid(torch.from_numpy(pair.inverse_affine)[None], [1, 3, 32, 32], align_corners=False)
        maps = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))[None]
        expected = F.grid_sample(maps, grid, align_corners=False, padding_mode="border")[0].numpy().transpose(1, 2, 0)
        assert np.abs(pair.foreground.astype(float) - expected)[pair.object_mask].max() <= 1.5
        old_mask = F.grid_sample(torch.from_numpy((mask == 3).astype(np.float32))[None, None], grid, mode="nearest",
                             align_corners=False)[0, 0].numpy() > 0
        assert (old_mask != pair.object_mask).mean() < 0.01
        np.testing.assert_array_equal(pair.foreground[~pair.object_mask], pair.multi[~pair.object_mask])
        # The background is pasted in place, around the old position of the object.
        np.testing.assert_array_equal(pair.background_mask, mask == 0)


def test_scale_and_random_placement():
    mask = box(slice(8, 20), slice(10, 22))
    half = paste_pair((gradient(), mask), (noise(2), mask), 3, generator(), replace(SAME, scale=(0.5, 0.5)))
    assert half.object_mask.sum() == 36 and half.object_mask[11:17, 13:19].all()
    positions = set()
    for seed in range(200):
        pair = paste_pair((gradient(), mask), (noise(2), mask), 3, generator(seed), replace(SAME, placement="random"))
        rows, columns = np.nonzero(pair.object_mask)
        assert 100 <= pair.object_mask.sum() <= 144
        positions.add((int(rows.min()), int(columns.min())))
    tops, lefts = (sorted({position[axis] for position in positions}) for axis in (0, 1))
    assert tops[0] == lefts[0] == 0 and tops[-1] >= 19 and lefts[-1] >= 19


def test_no_object_and_no_background():
    full, empty = np.full((32, 32), 3, np.uint8), np.zeros((32, 32), np.uint8)
    moving = replace(SAME, placement="random", scale=(0.5, 2.0), rotation=90.0)
    for settings in (SAME, moving):
        pair = paste_pair((noise(1), empty), (noise(2), empty), 3, generator(), settings)
        np.testing.assert_array_equal(pair.foreground, pair.multi)
        assert not pair.object_mask.any() and pair.background_mask.all()
        pair = paste_pair((noise(1), full), (noise(2), empty), 3, generator(), settings)
        np.testing.assert_array_equal(pair.background, pair.multi)
        assert not pair.background_mask.any() and pair.object_mask.any()
