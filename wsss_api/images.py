"""Takes an image as users have it: a path, an image of PIL, an array or a tensor."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from stages.data.image_source import read_image_bytes
from stages.data.single_image import SingleImage
from stages.errors import BadData, MissingInput, UsageError

UNNAMED = "image"  # the id of an image that is not a file
_ACCEPTED = ("Pass a path, an image of PIL, a uint8 array of shape (height, width, 3), or a uint8 tensor of shape "
             "(3, height, width)")


def open_image(image: Any, classes: tuple[str, ...], max_side: int) -> tuple[str, SingleImage]:
    """Return the id and the pixels of an image, reduced to `max_side` as the commands reduce it.

    A file is read as the commands read it, in its EXIF orientation. Raises MissingInput, BadData, UsageError.
    """
    if isinstance(image, (str, os.PathLike)):
        path = Path(os.path.abspath(image))
        if not path.exists():
            raise MissingInput("does not exist", "Check the path of the image file", where=str(image))
        data = read_image_bytes(path.parent, path.name)
        return path.stem, SingleImage.decode(data, classes, where=str(image), max_side=max_side)
    return UNNAMED, SingleImage.from_array(_convert_to_array(image), classes, max_side=max_side)


def _convert_to_array(image: Any) -> np.ndarray:
    """Return the pixels (H, W, 3) uint8 of an image that is not a file. Raises UsageError, BadData."""
    if isinstance(image, Image.Image):
        return _convert_pil_image(image)
    torch = sys.modules.get("torch")  # a tensor exists only if torch has been imported
    if torch is not None and isinstance(image, torch.Tensor):
        return _convert_tensor(image, torch)
    if not isinstance(image, np.ndarray):
        raise UsageError(f"an image can't be a {type(image).__name__}", _ACCEPTED)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        is_planar = image.ndim == 3 and image.shape[0] == 3
        remedy = "Pass image.transpose(1, 2, 0)" if is_planar and image.dtype == np.uint8 else _ACCEPTED
        raise UsageError(f"the array has the shape {image.shape} and the type {image.dtype}, not (height, width, 3) "
                         "and uint8", remedy)
    return np.ascontiguousarray(image)


def _convert_tensor(image: Any, torch: Any) -> np.ndarray:
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        is_interleaved = image.ndim == 3 and image.shape[-1] == 3
        remedy = "Pass image.permute(2, 0, 1)" if is_interleaved and image.dtype == torch.uint8 else _ACCEPTED
        raise UsageError(f"the tensor has the shape {tuple(image.shape)} and the type {image.dtype}, not "
                         "(3, height, width) and torch.uint8", remedy)
    pixels: np.ndarray = image.detach().cpu().permute(1, 2, 0).contiguous().numpy()
    return pixels


def _convert_pil_image(image: Image.Image) -> np.ndarray:
    """Return an image of PIL in its EXIF orientation. Raises BadData for pixels of more than 8 bits."""
    if image.mode in ("F", "I") or image.mode.startswith("I;"):
        raise BadData(f"the image of PIL has pixels of more than 8 bits (mode {image.mode})",
                      "Pass the path of the file instead, or convert the image to RGB", where=UNNAMED)
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))
