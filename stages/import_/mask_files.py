"""Decode the masks of other tools: images of class ids or colours, and arrays in .npy and .npz files."""

from __future__ import annotations

import numpy as np

from stages.data.mask_values import MaskValues
from stages.data.masks import convert_mask_array, decode_mask
from stages.errors import BadData
from stages.import_.numpy_files import NPY_SIGNATURE, NPZ_SIGNATURE, decode_npy, decode_npz

MASK_SUFFIXES = (".png", ".npy", ".npz", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".mat")
_SAVE_IDS_REMEDY = 'Save a 2-D array of class ids, for example with np.save(path, mask.astype("uint8"))'


def decode_mask_file(data: bytes, *, where: str, num_classes: int, size: tuple[int, int], max_pixels: int,
                     mask_values: MaskValues | None) -> np.ndarray:
    """Return the mask (H, W) in a file, uint8 or uint16: 0..C, and 255 (65535 in 16 bits) for ignored pixels.

    Raises BadData for contents without a clear meaning, and for a size other than `size` = (H, W).
    """
    if not data.startswith((NPY_SIGNATURE, NPZ_SIGNATURE)):
        return decode_mask(data, where=where, num_classes=num_classes, size=size, max_pixels=max_pixels,
                           mask_values=mask_values)
    array = decode_label_array(data, where)
    return convert_mask_array(array, where=where, num_classes=num_classes, size=size, mask_values=mask_values)


def decode_label_array(data: bytes, where: str) -> np.ndarray:
    """Return the 2-D array of integers in an .npy file, or in an .npz file of one array. Raises BadData."""
    if data.startswith(NPZ_SIGNATURE):
        arrays = decode_npz(data, where)
        if len(arrays) != 1:
            raise BadData(f"the .npz file has {len(arrays)} arrays ({', '.join(list(arrays)[:4])}), not one",
                          "Save only the labels of one image in a file", where=where)
        array = next(iter(arrays.values()))
    else:
        array = decode_npy(data, where)
    if not isinstance(array, np.ndarray):
        raise BadData(f"the .npy file holds a Python object ({type(array).__name__}), not an array of numbers",
                      f"{_SAVE_IDS_REMEDY}. Maps of classes are imported with `wsss import cams`", where=where)
    if array.ndim != 2 or array.dtype.kind not in "iu" or not array.size:
        raise BadData(f"the array has the shape {array.shape} and the type {array.dtype}, but labels need two axes "
                      "and whole numbers", _SAVE_IDS_REMEDY, where=where)
    return array
