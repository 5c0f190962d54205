"""Convert the colours of masks to class ids, and detect masks whose objects are not in their colours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from stages.errors import BadData

_BAND_PIXELS = 1 << 20  # of a colour mask, converted at once
_MAX_COUNTED = 4096  # distinct colours of a mask that are counted; masks of classes have far fewer
_ALPHA_REMEDY = "Save the class ids as a grey or palette PNG without transparency"


def pack_colours(colours: np.ndarray) -> np.ndarray:
    """Return colours (..., 3) uint8 as one number each, (...) int32."""
    return colours.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)


def format_colour(colour: int) -> str:
    """Return a packed colour as #RRGGBB."""
    return f"#{colour:06X}"


def convert_colours(colours: np.ndarray, id_by_colour: Mapping[int, int]) -> np.ndarray | None:
    """Return the class ids (H, W) uint16 of colours (H, W, 3), some rows at a time; None if one is not in the table."""
    known = np.array(sorted(id_by_colour), dtype=np.int32)
    class_ids = np.array([id_by_colour[colour] for colour in known.tolist()], dtype=np.uint16)
    ids = np.empty(colours.shape[:2], np.uint16)
    for band, packed in _iterate_bands(colours):
        positions = np.searchsorted(known, packed).clip(max=len(known) - 1)
        if (known[positions] != packed).any():
            return None
        ids[band] = class_ids[positions]
    return ids


def count_colours(colours: np.ndarray) -> dict[int, int]:
    """Return the pixels of each packed colour of (H, W, 3); of at most about `_MAX_COUNTED` colours."""
    counts: dict[int, int] = {}
    for _, packed in _iterate_bands(colours):
        for colour, count in zip(*(values.tolist() for values in np.unique(packed, return_counts=True)), strict=True):
            counts[colour] = counts.get(colour, 0) + count
        if len(counts) > _MAX_COUNTED:
            break
    return counts


def _iterate_bands(colours: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    num_rows = max(1, _BAND_PIXELS // colours.shape[1])
    for start in range(0, len(colours), num_rows):
        band = slice(start, start + num_rows)
        yield band, pack_colours(colours[band])


def check_alpha(colours: np.ndarray, alpha: np.ndarray, where: str) -> None:
    """Raise BadData if `alpha` (H, W) says something else about the objects than `colours` (H, W, channels)."""
    if alpha.min() == alpha.max():
        return
    if (colours == colours[0, 0]).all():
        raise BadData("the mask has one colour only, and its objects are in the alpha channel, which is not read",
                      _ALPHA_REMEDY, where=where)
    if colours[alpha == 0].any():
        raise BadData("the mask has colours other than black where it is fully transparent, so it is unclear whether "
                      "objects are there", _ALPHA_REMEDY, where=where)
