"""Decode the CAMs of other tools: dictionaries in .npy files, .npz files, and a grey image per class.

IRN and the tools derived from it save {"keys": classes (K,), "cam": maps (K, h, w), "high_res": maps (K, H, W)},
CLIP-ES {"keys", "attn_highres"}, and PSA a dictionary {class: map (H, W)}.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.data.images import load_pixels, open_image, read_open_header, restore_stored_axes
from stages.data.masks import LOSSLESS_FORMATS
from stages.errors import BadData
from stages.import_.numpy_files import NPZ_SIGNATURE, decode_npy, decode_npz

ARRAY_SUFFIXES = (".npy", ".npz")
PICTURE_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm")
_TOLERANCE = 1e-3  # half precision and bicubic interpolation exceed 1 by less
KEY_NAMES = ("keys", "valid_cat", "class_ids")
MAP_NAMES = ("attn_highres", "high_res", "cam", "cams")  # the first that exists is read
_FORM_REMEDY = ('Save a dictionary {class: map}, or one with "keys" (K,) and maps (K, h, w), for example "cam"; see '
                "the page on importing")


@dataclass(frozen=True)
class ClassMaps:
    """The maps of an image as they are in its files: `maps` (K, h, w), and the name or number of the class of each."""

    keys: tuple[str | int, ...]
    maps: np.ndarray


def decode_cam_file(data: bytes, *, where: str, array: str = "") -> ClassMaps:
    """Return the maps in an .npy or .npz file; `array` is the name of the maps if there are several. Raises BadData."""
    content = decode_npz(data, where) if data.startswith(NPZ_SIGNATURE) else decode_npy(data, where)
    if not isinstance(content, Mapping):
        kind = f"an array {content.shape}" if isinstance(content, np.ndarray) else f"a {type(content).__name__}"
        raise BadData(f"the file holds {kind}, which does not say the classes of its maps", _FORM_REMEDY, where=where)
    key_name = next((name for name in KEY_NAMES if name in content), None)
    if key_name is not None:
        return _read_keyed_maps(content, key_name, array, where)
    if array and array not in content:
        raise BadData(f"there is no array {array!r}, only {_list_names(content)}", "Leave out --array, or give another",
                      where=where)
    return _read_dictionary(content, where)


def _read_keyed_maps(content: Mapping[Any, Any], key_name: str, array: str, where: str) -> ClassMaps:
    """Read classes and maps that are two arrays of a dictionary."""
    names = [array] if array else [name for name in MAP_NAMES if content.get(name) is not None]
    if not names or content.get(names[0]) is None:
        raise BadData(f"there is no array of maps {array or ' or '.join(MAP_NAMES)!r}, only {_list_names(content)}",
                      "Name the array of the maps with --array NAME", where=where)
    keys, maps = np.asarray(content[key_name]), content[names[0]]
    keys = keys.reshape(-1) if keys.ndim == 0 else keys
    maps = np.stack(maps) if _is_list_of_arrays(maps) else np.asarray(maps)
    if keys.ndim != 1 or keys.dtype.kind not in "iuU" or maps.ndim != 3 or len(maps) != len(keys):
        raise BadData(f"{key_name} has the shape {keys.shape} and {names[0]} {maps.shape}, which are not the classes "
                      "(K,) of maps (K, h, w)", _FORM_REMEDY, where=where)
    return ClassMaps(tuple(keys.tolist()), _check_maps(maps, where))


def _is_list_of_arrays(maps: object) -> bool:
    return (isinstance(maps, (list, tuple)) and bool(maps)
            and all(isinstance(part, np.ndarray) and part.shape == maps[0].shape for part in maps))


def _read_dictionary(content: Mapping[Any, Any], where: str) -> ClassMaps:
    """Read a dictionary of maps by class. Raises BadData if one of its values is no map."""
    keys, maps = list(content), list(content.values())
    is_plain = all(isinstance(key, (str, int)) and not isinstance(key, bool) for key in keys)
    shapes = {part.shape for part in maps if isinstance(part, np.ndarray) and part.ndim == 2}
    if not is_plain or len(shapes) > 1 or any(not (isinstance(part, np.ndarray) and part.ndim == 2) for part in maps):
        raise BadData(f"the file holds {_list_names(content)}, which are not maps (h, w) of one size by class",
                      _FORM_REMEDY, where=where)
    stacked = np.stack(maps) if maps else np.zeros((0, 1, 1), np.float32)
    return ClassMaps(tuple(keys), _check_maps(stacked, where))


def _list_names(content: Mapping[Any, Any]) -> str:
    """Return the names and shapes in a dictionary, for a message."""
    parts = [f"{key!s:.40} {getattr(value, 'shape', type(value).__name__)}" for key, value in list(content.items())[:6]]
    return ", ".join(parts) + (", ..." if len(content) > 6 else "") or "nothing"


def _check_maps(maps: np.ndarray, where: str) -> np.ndarray:
    if maps.dtype.kind not in "iuf" or (len(maps) and not maps.size):
        raise BadData(f"the maps have the shape {maps.shape} and the type {maps.dtype}", _FORM_REMEDY, where=where)
    return maps


def decode_map_picture(data: bytes, *, where: str, max_pixels: int) -> np.ndarray:
    """Return a map (h, w) uint8 or uint16 from a grey image of 8 or 16 bits. Raises BadData for another image."""
    with open_image(data, where=where, max_pixels=max_pixels) as image:
        if image.format not in LOSSLESS_FORMATS:
            raise BadData(f"the map is saved as {image.format}", "Save it as grey PNG of 8 or 16 bits", where=where)
        orientation = read_open_header(image).orientation
        pixels = np.asarray(load_pixels(image, where))
        values = _read_grey(pixels, image.mode, where)
        return restore_stored_axes(values, image, orientation)


def _read_grey(pixels: np.ndarray, mode: str, where: str) -> np.ndarray:
    """Return grey values; colours are accepted if they are grey, and rejected if they are a heat map."""
    if mode == "RGB" and (pixels == pixels[:, :, :1]).all():
        return pixels[:, :, 0]
    if mode == "L":
        return pixels
    if mode.startswith("I;16") or (mode == "I" and pixels.min() >= 0 and pixels.max() <= 65535):
        return pixels.astype(np.uint16)
    what = "colours, as a heat map for people has" if mode in ("RGB", "RGBA", "P") else f"the mode {mode}"
    raise BadData(f"the map has {what}", "Save the values of the map as grey PNG of 8 or 16 bits", where=where)


def scale_to_unit(maps: np.ndarray, *, where: str, divide_by_maximum: bool) -> np.ndarray:
    """Return maps (K, h, w) in [0, 1], as float16, or as uint8 in units of 1/255 if they are stored so.

    With `divide_by_maximum`, negative values become 0 and each map is divided by its maximum. Raises BadData for other
    values outside [0, 1], for values that are not finite, and for 8 or 16 bits of which only 0 and 1 occur.
    """
    if maps.dtype.kind in "iu" and maps.dtype not in (np.uint8, np.uint16):
        raise BadData(f"the maps have the type {maps.dtype}, but values in [0, 1] are not whole numbers",
                      "Save them as float, or as uint8 or uint16 if the largest value stands for 1", where=where)
    if maps.dtype.kind == "u":
        if maps.max(initial=0) == 1:
            raise BadData(f"the maps of {maps.dtype} hold only 0 and 1, so they are masks", "Multiply them by "
                          f"{np.iinfo(maps.dtype).max}, or import them with `wsss import masks`", where=where)
        if maps.dtype == np.uint8 and not divide_by_maximum:
            return maps
        maps = maps / np.float32(np.iinfo(maps.dtype).max)
    scaled = [_scale_map(values, where, divide_by_maximum) for values in maps]
    return np.stack(scaled) if scaled else np.zeros(maps.shape, np.float16)


def _scale_map(values: np.ndarray, where: str, divide_by_maximum: bool) -> np.ndarray:
    with np.errstate(over="ignore"):  # reported below
        values = values.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise BadData("the maps have values that are not finite", "Make them again", where=where)
    if divide_by_maximum:
        return (values.clip(min=0) / max(high, np.finfo(np.float32).tiny)).astype(np.float16)
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise BadData(f"a map has values from {low:.4g} to {high:.4g}, but they must be in [0, 1]",
                      "Use --normalise maximum to set negative values to 0 and divide each map by its maximum",
                      where=where)
    return values.clip(0, 1).astype(np.float16)


def compute_covers(map_size: Sequence[int], size: tuple[int, int], stride: int, where: str) -> tuple[int, int]:
    """Return the rows and columns of image pixels that maps (h, w) of an image (H, W) span.

    These are those of the image if `stride` is 0; otherwise a cell spans `stride` pixels, so that the last cells may
    reach beyond the image. Raises BadData if the maps do not fit the image.
    """
    if not stride:
        # Maps of another shape are those of a resized image; but they are not finer than it, nor equal in one side.
        is_equal = [length == side for length, side in zip(map_size, size, strict=True)]
        if any(length > side for length, side in zip(map_size, size, strict=True)) or is_equal[0] != is_equal[1]:
            raise BadData(f"the maps have {map_size[0]}x{map_size[1]} cells (height x width), which do not fit an "
                          f"image of {size[0]}x{size[1]} pixels", "Use the maps of this image; if their cells span "
                          "the image padded to a multiple of N pixels, use --stride N", where=where)
        return size
    cells = tuple(-(-side // stride) for side in size)
    if tuple(map_size) != cells:
        raise BadData(f"the maps have {map_size[0]}x{map_size[1]} cells, but --stride {stride} gives "
                      f"{cells[0]}x{cells[1]} cells for an image of {size[0]}x{size[1]} pixels (height x width)",
                      "Use another --stride, or 0 if the maps span exactly the image", where=where)
    return cells[0] * stride, cells[1] * stride

