"""`features`: one vector an image, of a trained or a known network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from stages.data.source import ImageSource
from stages.data.views import patch_size, patch_views, squashed_view
from stages.errors import BadData
from stages.features.config import FeaturesConfig
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.map_loop import run_map
from stages.flow.parts import Part
from stages.flow.pictures import image_files, index_of_files
from stages.flow.work import MapWork
from stages.nets.files import read_net
from stages.nets.pooled import feature_net
from stages.nets.precision import DTYPES
from stages.nets.weights import weights_digest
from stages.settings import as_plain
from stages.shards import Item, Shard


def run(config: FeaturesConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write pooled features of an index's images, or of image files.

    Raises UsageError, MissingInput, BadData, Unavailable.
    """
    net, weights = inputs.require("net"), inputs.named.get("weights")
    ours = weights is None and net.endswith(".safetensors")
    digests = {"net": read_net(net)[1]["sha256"]} if ours else {"net": net, **weights_digest(weights)}
    settings = replace(config, device=resolve_device(config.device))
    paths, files = image_files(inputs.paths)
    if files:
        index = index_of_files(files, ("background",), output, painted=False)
        if index is None:
            report.tell(f"would make features of {len(files)} image files")
            return Summary()
        paths = [str(index)]
    work = MapWork("features", "", "features", ("index",), "stages.features.stage:FeaturesWorker", config,
                   as_plain(settings), named={"net": net, "weights": weights}, digests=digests, root=inputs.root,
                   shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads)
    return run_map(work, replace(inputs, paths=paths), output, stop=stop, report=report)


class FeaturesWorker:
    """Holds the net on its device."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        self.device = torch.device(self.config.device if ":" in self.config.device else work.plain["device"])
        net, mean, std, self.cell = feature_net(str(work.named["net"]), work.named["weights"], self.config.layer,
                                              self.config.pool)
        self.net = net.to(self.device, memory_format=torch.channels_last)
        self.mean, self.std = self.config.mean or mean, self.config.std or std

    def open(self, part: Part, source: Shard, index: Shard) -> _FeaturesPart:
        """Begin a part."""
        return _FeaturesPart(self, ImageSource(index, self.work.root))


class _FeaturesPart:
    """The images of one part."""

    def __init__(self, worker: FeaturesWorker, images: ImageSource) -> None:
        self.worker, self.images, self.config = worker, images, worker.config
        self.classes, self.root_attrs = images.classes, {}

    def key(self, item_id: str) -> tuple[int, int]:
        """Images of one size make a batch; squashed ones all do."""
        if self.config.size:
            return self.config.size, self.config.size
        return patch_size(self.images.size(item_id), 1.0, self.worker.cell)

    def load(self, item_id: str) -> np.ndarray:
        """Return the image's normalised view."""
        worker, image = self.worker, self.images.image(item_id)
        if self.config.size:
            return squashed_view(image, self.config.size, worker.mean, worker.std)
        return patch_views(image, (1.0,), worker.cell, worker.mean, worker.std)[0]

    def compute(self, loaded: Sequence[tuple[str, np.ndarray]]) -> list[Item]:
        """Return the rows of a batch."""
        worker = self.worker
        views = torch.from_numpy(np.stack([view for _, view in loaded])).to(
            worker.device, memory_format=torch.channels_last)
        enabled = self.config.precision != "fp32"
        with torch.inference_mode(), torch.autocast(worker.device.type, DTYPES[self.config.precision], enabled=enabled):
            features = worker.net(views).float().cpu().numpy()
        return [self._item(item_id, row) for (item_id, _), row in zip(loaded, features, strict=True)]

    def _item(self, item_id: str, features: np.ndarray) -> Item:
        if features.ndim != 1:
            raise BadData(f"its features have the shape {features.shape}, which is no vector",
                          "give another --layer or --pool", where=item_id)
        labels = np.zeros(len(self.classes), dtype=np.uint8)
        labels[list(self.images.labels(item_id) or ())] = 1
        return Item(item_id, {"features": features, "labels": labels})
