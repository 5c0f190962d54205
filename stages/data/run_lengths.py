"""Regions as lengths of alternating runs of pixels outside and inside, column by column: COCO's RLE."""

from __future__ import annotations

import numpy as np

from stages.errors import BadData

# An array of lengths, or COCO's compressed text.
Runs = np.ndarray | bytes
_RLE_REMEDY = "Write the mask again with pycocotools' mask.encode"
# COCO's text has 5 bits of a number in each character, from "0"; bit 5 says that more follow, bit 4 is the sign.
_FIRST_CHARACTER = 48
_MORE, _SIGN, _BITS = 0x20, 0x10, 0x1F
_MAX_CHARACTERS = 7  # of one number


def decode_runs(runs: Runs, size: tuple[int, int], *, where: str) -> np.ndarray:
    """Return the region as bool (H, W). Raises BadData for malformed runs and for those of another size."""
    lengths = expand_counts(runs, where=where) if isinstance(runs, bytes) else np.asarray(runs, dtype=np.int64)
    height, width = size
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise BadData(f"the runs of the RLE cover {lengths.sum()} pixels, but the image has {height}x{width} = "
                      f"{height * width}", _RLE_REMEDY, where=where)
    is_inside = np.arange(lengths.size) % 2 == 1
    return np.repeat(is_inside, lengths).reshape(width, height).T


def expand_counts(text: bytes, *, where: str) -> np.ndarray:
    """Return the lengths of the runs, int64 (n,), of COCO's compressed text. Raises BadData for another text."""
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if not codes.size:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero((codes & _MORE) == 0)
    if (codes < 0).any() or (codes > 63).any() or not ends.size or ends[-1] != codes.size - 1:
        raise BadData("the counts of the RLE are not COCO's compressed text", _RLE_REMEDY, where=where)
    starts = np.concatenate(([0], ends[:-1] + 1))
    num_characters = ends - starts + 1
    if num_characters.max() > _MAX_CHARACTERS:
        raise BadData("the counts of the RLE have a number that is too large", _RLE_REMEDY, where=where)
    shifts = 5 * (np.arange(codes.size) - np.repeat(starts, num_characters))
    values = np.add.reduceat((codes & _BITS) << shifts, starts)
    is_negative = (codes[ends] & _SIGN) > 0
    values[is_negative] -= 1 << (5 * num_characters[is_negative])
    # From the fourth number on, each is the difference to the one two places before.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def encode_runs(region: np.ndarray) -> np.ndarray:
    """Return the lengths of the runs, uint32 (n,), of a region bool (H, W); the first run is outside."""
    pixels = np.asarray(region, dtype=bool).T.ravel()
    changes = np.flatnonzero(np.diff(pixels)) + 1
    first = [0] if pixels.size and pixels[0] else []
    return np.diff(np.concatenate((first, [0], changes, [pixels.size]))).astype(np.uint32)


def place_bitmap(bitmap: np.ndarray, top: int, left: int, size: tuple[int, int], *, where: str) -> np.ndarray:
    """Return the runs of a bitmap (h, w) whose upper left corner is (top, left) in an image of (H, W) `size`.

    A part outside the image is cut off. Raises BadData, naming `where`, for a bitmap that is wholly outside.
    """
    bottom, right = min(top + bitmap.shape[0], size[0]), min(left + bitmap.shape[1], size[1])
    first_row, first_column = max(top, 0), max(left, 0)
    if first_row >= bottom or first_column >= right:
        raise BadData(f"the mask of {bitmap.shape[0]}x{bitmap.shape[1]} pixels (height x width) at row {top}, column "
                      f"{left} covers no pixel of the image of {size[0]}x{size[1]}",
                      "Use the image that was annotated, or remove the object", where=where)
    region = np.zeros(size, bool)
    visible = bitmap[first_row - top:bottom - top, first_column - left:right - left]
    region[first_row:bottom, first_column:right] = visible
    return encode_runs(region)
