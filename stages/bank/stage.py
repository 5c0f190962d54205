"""`bank`: one feature vector of each class in each mask, for `segment retrieve`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from stages.bank.config import BankConfig
from stages.data.image_size import resize_labels
from stages.data.image_source import ImageSource
from stages.data.masks import get_ignore_index
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.feature_maps import FeatureMaps
from stages.flow.item_arrays import extract_mask
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import MapWork
from stages.flow.parts import Part
from stages.kernels.region_features import average_regions, erode_regions, number_regions
from stages.nets.map_network import resolve_map_network
from stages.settings import to_json_dict
from stages.shards import Item, Shard

_Loaded = tuple[np.ndarray, np.ndarray]


def run(config: BankConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the features of the classes of masks. Raises UsageError, MissingInput, BadData, Unavailable."""
    source = resolve_map_network(inputs.require("net"), inputs.named.get("weights"))
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("bank", "", "bank", ("masks",), "stages.bank.stage:BankWorker", config, to_json_dict(settings),
                   digests=source.compute_digests(), root=inputs.root,
                   shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads,
                   shared={"net": source})
    return run_map_stage(work, inputs, output, stop=stop, report=report)


class BankWorker:
    """Holds the network on its device."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        self.maps = FeatureMaps(work, self.config.mean, self.config.std)

    def open(self, part: Part, source: Shard, index: Shard) -> _BankPart:
        """Open a part."""
        return _BankPart(self, source, ImageSource(index, self.work.root, max_side=self.config.max_side))


class _BankPart:
    """The masks of one part."""

    def __init__(self, worker: BankWorker, source: Shard, images: ImageSource) -> None:
        self.worker, self.source, self.images, self.config = worker, source, images, worker.config
        self.classes, self.root_attrs = source.classes, {}

    def batch_key(self, item_id: str) -> tuple[int, int]:
        """Return the image size: images of equal size are batched together."""
        return self.images.read_input_size(item_id)

    def count_pixels(self, item_id: str) -> int:
        """Return the number of pixels at which the image is computed."""
        return math.prod(self.images.read_input_size(item_id))

    def load(self, item_id: str) -> _Loaded:
        """Return the network's input and the mask (H', W') at its size."""
        mask = extract_mask(self.source.item(item_id), len(self.classes) - 1)
        return (self.worker.maps.normalise(self.images.read_image(item_id)),
                resize_labels(mask, self.images.read_input_size(item_id)))

    def compute(self, loaded: Sequence[tuple[str, _Loaded]]) -> list[Item]:
        """Return the features of the classes of a batch of masks."""
        maps = self.worker.maps.compute([view for _, (view, _) in loaded], [item_id for item_id, _ in loaded])
        return [self._build_item(item_id, mask, features)
                for (item_id, (_, mask)), features in zip(loaded, maps, strict=True)]

    def _build_item(self, item_id: str, mask: np.ndarray, features: np.ndarray) -> Item:
        ignore_index = get_ignore_index(len(self.classes) - 1)
        eroded = erode_regions(mask.astype(np.int32), self.config.erosion)
        eroded[eroded == ignore_index] = -1
        positions, class_ids = number_regions(eroded, self.config.min_area)
        vectors = average_regions(features, positions, len(class_ids), self.worker.maps.stride)
        return Item(item_id, {"class_ids": class_ids.astype(np.uint16), "features": vectors})
