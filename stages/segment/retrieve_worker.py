"""The worker of `segment retrieve`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from stages.data.image_size import resize_labels
from stages.data.image_source import ImageSource
from stages.data.masks import get_ignore_index
from stages.flow.class_bank import read_bank
from stages.flow.feature_maps import FeatureMaps
from stages.flow.map_work import MapWork
from stages.flow.parts import Part
from stages.flow.region_source import RegionSource
from stages.kernels.region_features import average_regions, number_regions, retrieve_classes
from stages.shards import Item, Run, Shard, check_same_classes


class RetrieveWorker:
    """Holds the network on its device, and the bank in memory."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        bank = str(work.named["bank"])
        self.features, self.class_ids, self.classes = read_bank(bank, self.config.drop)
        bank_settings = Run([bank], "bank").first.provenance[-1]["config"]
        self.maps = FeatureMaps(work, bank_settings["mean"], bank_settings["std"])
        self.regions = RegionSource(str(work.named["regions"]))

    def open(self, part: Part, source: Shard, index: Shard) -> _RetrievePart:
        """Open a part. Raises BadData for an index of other classes than the bank, or regions of other images."""
        if len(index.classes) > 1:
            check_same_classes((str(index.path), index.classes), (str(self.work.named["bank"]), self.classes))
        self.regions.check_images(index)
        return _RetrievePart(self, ImageSource(index, self.work.root, max_side=self.config.max_side))


class _RetrievePart:
    """The images of one part."""

    def __init__(self, worker: RetrieveWorker, images: ImageSource) -> None:
        self.worker, self.images, self.config = worker, images, worker.config
        self.classes, self.root_attrs = worker.classes, {}

    def batch_key(self, item_id: str) -> tuple[int, int]:
        """Return the image size: images of equal size are batched together."""
        return self.images.read_input_size(item_id)

    def count_pixels(self, item_id: str) -> int:
        """Return the number of pixels at which the image is computed."""
        return math.prod(self.images.read_input_size(item_id))

    def load(self, item_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the network's input and the regions (H', W') at its size."""
        labels = self.worker.regions.read(item_id, self.images.read_size(item_id),
                                          self.images.read_input_size(item_id))
        return self.worker.maps.normalise(self.images.read_image(item_id)), labels

    def compute(self, loaded: Sequence[tuple[str, tuple[np.ndarray, np.ndarray]]]) -> list[Item]:
        """Return the masks of a batch."""
        maps = self.worker.maps.compute([view for _, (view, _) in loaded], [item_id for item_id, _ in loaded])
        return [self._build_item(item_id, labels, features)
                for (item_id, (_, labels)), features in zip(loaded, maps, strict=True)]

    def _build_item(self, item_id: str, labels: np.ndarray, features: np.ndarray) -> Item:
        worker, config = self.worker, self.config
        positions, ids = number_regions(np.where(labels > 0, labels, -1), config.min_area)
        queries = average_regions(features, positions, len(ids), worker.maps.stride)
        classes, cosines = retrieve_classes(queries, worker.features, worker.class_ids, config.neighbours)
        # The last entry is that of position -1, pixels without a region: background, or unknown if there is none.
        ignore_index = get_ignore_index(len(worker.classes) - 1)
        none = 0 if worker.classes[0] else ignore_index
        mask = np.append(classes, none).astype(np.uint8 if ignore_index == 255 else np.uint16)[positions]
        confidence = np.append(np.round(cosines.clip(0, 1) * 255), 0).astype(np.uint8)[positions]
        size = self.images.read_size(item_id)
        return Item(item_id, {"mask": resize_labels(mask, size), "confidence": resize_labels(confidence, size)})
