"""One image in memory, with the interface that workers use to read the images of an index."""

from __future__ import annotations

import numpy as np
from PIL import Image

from stages.data.image_size import compute_reduced_size, reduce_image
from stages.data.images import decode_image, read_header


class SingleImage:
    """An image that no index lists: `image` (H', W', 3) uint8, reduced from `size` (H, W). It has no tags.

    Its methods are those of `ImageSource`; they take an id, which can only be that of this image.
    """

    def __init__(self, image: np.ndarray, size: tuple[int, int], classes: tuple[str, ...]) -> None:
        self.image, self.size, self.classes = image, size, classes
        self.num_reduced = int(image.shape[:2] != size)

    @classmethod
    def decode(cls, data: bytes, classes: tuple[str, ...], *, where: str, max_side: int = 0) -> SingleImage:
        """Decode an image file in its EXIF orientation, as an index of image files does. Raises BadData."""
        header = read_header(data, where=where)
        size = (header.height, header.width)
        height, width = size[::-1] if header.orientation >= 5 else size  # 5 to 8 swap rows and columns
        return cls(decode_image(data, where=where, apply_exif=True, max_side=max_side), (height, width), classes)

    @classmethod
    def from_array(cls, image: np.ndarray, classes: tuple[str, ...], *, max_side: int = 0) -> SingleImage:
        """Take pixels (H, W, 3) uint8, reduced as those of a PNG file are."""
        size = (image.shape[0], image.shape[1])
        reduced = reduce_image(Image.fromarray(image), compute_reduced_size(size, max_side))
        return cls(np.array(reduced), size, classes)

    def read_size(self, item_id: str) -> tuple[int, int]:
        """Return (H, W) of the image, before it is reduced."""
        return self.size

    def read_input_size(self, item_id: str) -> tuple[int, int]:
        """Return (H', W') of the image as `read_image` returns it."""
        return self.image.shape[0], self.image.shape[1]

    def read_labels(self, item_id: str) -> None:
        """Return None: the tags of the image are unknown."""

    def read_image(self, item_id: str) -> np.ndarray:
        """Return the image, (H', W', 3) uint8."""
        return self.image
