"""`cams`: an index and a network to class activation maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from stages.cams import cnn
from stages.cams.config import CnnConfig
from stages.cams.tags import choose, parse_tags
from stages.data.source import ImageSource
from stages.data.views import scaled_views
from stages.errors import BadData, UsageError
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.map_loop import run_map
from stages.flow.parts import Part
from stages.flow.work import MapWork
from stages.nets.files import load_net, read_net
from stages.nets.folding import fold_batch_norm
from stages.settings import as_plain
from stages.shards import Item, Shard, same_classes

_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def run_cnn(config: CnnConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the maps of a classifier trained by `train-cls`. Raises UsageError, BadData, MissingInput."""
    parse_tags(config.tags)
    if not config.scales:
        raise UsageError("--scales is empty", "give for example --scales 1")
    net = inputs.require("net")
    _, description = read_net(net)
    if description["task"] != "classification":
        raise BadData(f"is a net for {description['task']}, not a classifier", "give a net of train-cls", where=net)
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("cams", "cnn", "cams", ("index",), "stages.cams.stage:CnnWorker", config, as_plain(settings),
                   named={"net": net}, digests={"net": description["sha256"]}, root=inputs.root,
                   shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads)
    return run_map(work, inputs, output, stop=stop, report=report)


class CnnWorker:
    """Holds the folded net on its device."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        net, self.description = load_net(work.named["net"])
        kind = work.plain["device"]
        self.device = torch.device(self.config.device if ":" in self.config.device else kind)
        self.net = fold_batch_norm(net).to(self.device, memory_format=torch.channels_last)

    def open(self, part: Part, source: Shard, index: Shard) -> _CnnPart:
        """Begin a part; BadData when the net was trained for other classes."""
        same_classes((str(index.path), index.classes),
                     (str(self.work.named["net"]), tuple(self.description["classes"])))
        return _CnnPart(self, ImageSource(index, self.work.root))


class _CnnPart:
    """The images of one part."""

    def __init__(self, worker: CnnWorker, images: ImageSource) -> None:
        self.root_attrs = {"background": "none"}
        self.worker, self.images, self.config = worker, images, worker.config
        self.classes = images.classes
        self.rule, self.threshold = parse_tags(worker.config.tags)

    def key(self, item_id: str) -> tuple[int, int]:
        """Images of one size make a batch."""
        return self.images.size(item_id)

    def load(self, item_id: str) -> list[np.ndarray]:
        """Return the image's normalised views, one per scale."""
        if self.rule == "index" and self.images.labels(item_id) is None:
            raise BadData("has no tags in the index", "give --tags predicted:0.5 or all", where=item_id)
        described = self.worker.description
        return scaled_views(self.images.image(item_id), self.config.scales, described["mean"], described["std"])

    def compute(self, loaded: Sequence[tuple[str, list[np.ndarray]]]) -> list[Item]:
        """Return the items of a batch."""
        device = self.worker.device
        views = [torch.from_numpy(np.stack(of_scale)).to(device, memory_format=torch.channels_last)
                 for of_scale in zip(*(views for _, views in loaded), strict=True)]
        with torch.autocast(device.type, _TYPES[self.config.precision], enabled=self.config.precision != "fp32"):
            maps, scores = cnn.class_maps(self.worker.net, views, flip=self.config.flip)
        return [self._item(item_id, maps, position, scores[position].cpu().numpy())
                for position, (item_id, _) in enumerate(loaded)]

    def _item(self, item_id: str, maps: list[torch.Tensor], position: int, scores: np.ndarray) -> Item:
        class_ids = choose(self.rule, self.threshold, self.images.labels(item_id), scores)
        size = self.images.size(item_id)
        config = self.config
        cam, covers = cnn.merged(
            maps, position, class_ids, size, scales=config.scales, flip=config.flip, grid_stride=config.grid_stride,
            stride=self.worker.description["stride"], alignment=config.alignment)
        datasets: dict[str, Any] = {"class_ids": class_ids, "cam": cam,
                                    "scores": scores[class_ids.astype(int) - 1].astype(np.float32)}
        return Item(item_id, datasets, {"height": size[0], "width": size[1], "covers": np.array(covers)})
