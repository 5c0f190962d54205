"""The part of `regions` that runs in worker processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.data.image_size import resize_labels
from stages.data.image_source import ImageSource
from stages.flow.map_work import MapWork
from stages.flow.parts import Part
from stages.regions.superpixels import compute_superpixels
from stages.shards import Item, Shard


class SuperpixelsWorker:
    """Holds the settings."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config

    def open(self, part: Part, source: Shard, index: Shard) -> _SuperpixelsPart:
        """Open a part."""
        return _SuperpixelsPart(self, ImageSource(index, self.work.root, max_side=self.config.max_side))


class _SuperpixelsPart:
    """The images of one part."""

    def __init__(self, worker: SuperpixelsWorker, images: ImageSource) -> None:
        self.images, self.config = images, worker.config
        self.classes, self.root_attrs = images.classes, {}

    def batch_key(self, item_id: str) -> None:
        """Return None: images are computed one by one."""

    def count_pixels(self, item_id: str) -> int:
        """Return 0: images are computed one by one."""
        return 0

    def load(self, item_id: str) -> np.ndarray:
        """Return the image, reduced to `max_side`."""
        return self.images.read_image(item_id)

    def compute(self, loaded: Sequence[tuple[str, np.ndarray]]) -> list[Item]:
        """Return the superpixels of images, at the size of the photographs."""
        return [self._build_item(item_id, image) for item_id, image in loaded]

    def _build_item(self, item_id: str, image: np.ndarray) -> Item:
        config = self.config
        labels = compute_superpixels(image, config.segments, config.compactness, config.sigma)
        return Item(item_id, {"labels": resize_labels(labels, self.images.read_size(item_id))})
