"""`features`: one feature vector per image, from a network of `wsss` or a pretrained one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from stages.data.image_source import ImageSource
from stages.data.inference_views import build_patch_aligned_views, build_squashed_view, round_size_to_patches
from stages.errors import BadData
from stages.features.config import FeaturesConfig
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.image_inputs import index_image_files, select_inputs
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import MapWork
from stages.flow.parts import Part
from stages.nets.feature_extractor import load_feature_extractor
from stages.nets.net_description import read_verified_description
from stages.nets.precision import DTYPES
from stages.nets.weights import compute_weights_digest
from stages.settings import to_json_dict
from stages.shards import Item, Shard


def run(config: FeaturesConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write pooled features of an index's images, or of image files.

    Raises UsageError, MissingInput, BadData, Unavailable.
    """
    net, weights = inputs.require("net"), inputs.named.get("weights")
    inputs, output, files = select_inputs(inputs, output, "features", "features", report)
    is_net_file = weights is None and net.endswith(".safetensors")
    digests = ({"net": read_verified_description(net)["sha256"]} if is_net_file
               else {"net": net, **compute_weights_digest(weights)})
    settings = replace(config, device=resolve_device(config.device))
    if files:
        index = index_image_files(files, ("background",), output, stop, report, with_pictures=False)
        if index is None:
            report.info(f"Would compute features of {len(files)} image file{'s' * (len(files) > 1)}.")
            return Summary()
        inputs = replace(inputs, paths=[str(index)])
    work = MapWork("features", "", "features", ("index",), "stages.features.stage:FeaturesWorker", config,
                   to_json_dict(settings), named={"net": net, "weights": weights}, digests=digests, root=inputs.root,
                   shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads)
    return run_map_stage(work, inputs, output, stop=stop, report=report)


class FeaturesWorker:
    """Computes features with a network, which it holds on its device."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        self.device = torch.device(self.config.device if ":" in self.config.device else work.config_dict["device"])
        net, mean, std, self.cell = load_feature_extractor(str(work.named["net"]), work.named["weights"],
                                                           self.config.layer, self.config.pool)
        self.net = net.to(self.device, memory_format=torch.channels_last)
        self.mean, self.std = self.config.mean or mean, self.config.std or std

    def open(self, part: Part, source: Shard, index: Shard) -> _FeaturesPart:
        """Open a part."""
        return _FeaturesPart(self, ImageSource(index, self.work.root, max_side=self.config.max_side))


class _FeaturesPart:
    """The images of one part."""

    def __init__(self, worker: FeaturesWorker, images: ImageSource) -> None:
        self.worker, self.images, self.config = worker, images, worker.config
        self.classes, self.root_attrs = images.classes, {}

    def batch_key(self, item_id: str) -> tuple[int, int]:
        """Return the size at which the image is computed: images of equal size are batched together."""
        if self.config.size:
            return self.config.size, self.config.size
        return round_size_to_patches(self.images.read_input_size(item_id), 1.0, self.worker.cell)

    def count_pixels(self, item_id: str) -> int:
        """Return the number of pixels at which the image is computed."""
        return self.config.size ** 2 or math.prod(self.images.read_input_size(item_id))

    def load(self, item_id: str) -> np.ndarray:
        """Return the resized, normalised view of the image."""
        worker, image = self.worker, self.images.read_image(item_id)
        if self.config.size:
            return build_squashed_view(image, self.config.size, worker.mean, worker.std)
        return build_patch_aligned_views(image, (1.0,), worker.cell, worker.mean, worker.std)[0]

    def compute(self, loaded: Sequence[tuple[str, np.ndarray]]) -> list[Item]:
        """Return the features of a batch."""
        worker = self.worker
        views = torch.from_numpy(np.stack([view for _, view in loaded])).to(
            worker.device, memory_format=torch.channels_last)
        enabled = self.config.precision != "fp32"
        with torch.inference_mode(), torch.autocast(worker.device.type, DTYPES[self.config.precision], enabled=enabled):
            features = worker.net(views).float().cpu().numpy()
        return [self._build_item(item_id, row) for (item_id, _), row in zip(loaded, features, strict=True)]

    def _build_item(self, item_id: str, features: np.ndarray) -> Item:
        if features.ndim != 1:
            raise BadData(f"the features of the image have the shape {features.shape} and are not a vector",
                          "Choose another --layer or --pool", where=item_id)
        labels = np.zeros(len(self.classes), dtype=np.uint8)
        labels[list(self.images.read_labels(item_id) or ())] = 1
        return Item(item_id, {"features": features, "labels": labels})
