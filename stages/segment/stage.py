"""`segment net`: a trained network's masks of an index's images, or of image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from stages.data.source import ImageSource
from stages.data.views import scaled_views
from stages.errors import BadData, UsageError
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Silent, Stop, Summary
from stages.flow.map_loop import run_map
from stages.flow.packages import need_pydensecrf
from stages.flow.parts import Part
from stages.flow.pictures import image_files, index_of_files, write_pictures
from stages.flow.work import MapWork
from stages.nets.files import load_net, read_net
from stages.nets.precision import DTYPES
from stages.segment.config import NetConfig
from stages.segment.net import fused_scores, mask_of_scores
from stages.settings import as_plain
from stages.shards import Item, Shard, same_classes


def run_net(config: NetConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the masks that a net of `train-seg` gives, and with `--scores` its scores as a `cams` run."""
    if not config.scales:
        raise UsageError("--scales is empty", "give for example --scales 1")
    if config.crf:
        need_pydensecrf()
    net = inputs.require("net")
    _, description = read_net(net)
    if description["task"] != "segmentation":
        raise BadData(f"is a net for {description['task']}, not for segmentation", "give a net of train-seg",
                      where=net)
    settings = replace(config, device=resolve_device(config.device))
    paths, files = image_files(inputs.paths)
    if files and output.dry_run:
        report.tell(f"would segment {len(files)} image files")
        return Summary()
    if files:
        paths = [str(index_of_files(files, tuple(description["classes"]), output))]
    inputs = replace(inputs, paths=paths)
    trained_on = description["provenance"][-1]["inputs"].get("index", "")
    work = MapWork("segment", "net", "masks", ("index",), "stages.segment.stage:NetWorker", config,
                   as_plain(settings), named={"net": net},
                   digests={"net": description["sha256"], "net_index": trained_on},
                   root=inputs.root, shard_size=config.shard_size, batch_size=config.batch_size,
                   threads=config.threads)
    scores = inputs.named.get("scores")
    if scores:
        summary = _with_scores(work, inputs, output, Path(scores), stop, report)
    else:
        summary = run_map(work, inputs, output, stop=stop, report=report)
    if files:
        write_pictures(output, "masks", report)
    return summary


def _with_scores(work: MapWork, inputs: Inputs, output: Output, path: Path, stop: Stop, report: Report) -> Summary:
    """Write the scores first, then the masks from them: the same masks, one forward pass."""
    if path == output.path:
        raise UsageError("--scores and -o name one folder", "give two")
    written = _Collecting(report)
    run_map(replace(work, kind="cams"), inputs, replace(output, path=path), stop=stop, report=written)
    masks = replace(work, reads=("cams",), named={})
    return run_map(masks, replace(inputs, paths=map(str, written.paths)), output, stop=stop, report=report)


class _Collecting(Silent):
    """Passes progress on, and keeps the paths instead of printing them."""

    def __init__(self, report: Report) -> None:
        self.paths: list[Path] = []
        self.begin, self.advance, self.tell = report.begin, report.advance, report.tell

    def finished(self, path: Path) -> None:
        """Keep a finished path."""
        self.paths.append(path)


class NetWorker:
    """Holds the net on its device; without one it makes masks of stored scores."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config, self.net = work, work.config, None
        if "net" in work.named:
            net, self.description = load_net(work.named["net"])
            self.device = torch.device(self.config.device if ":" in self.config.device else work.plain["device"])
            self.net = net.to(self.device, memory_format=torch.channels_last)

    def open(self, part: Part, source: Shard, index: Shard) -> _ScoredPart:
        """Begin a part; BadData when the net was trained for other classes."""
        if self.net is None:
            return _ScoredPart(source, ImageSource(index, self.work.root), self.config)
        same_classes((str(index.path), index.classes),
                     (str(self.work.named["net"]), tuple(self.description["classes"])))
        return _NetPart(self, source, ImageSource(index, self.work.root))


class _ScoredPart:
    """A part whose scores are there already."""

    def __init__(self, source: Shard, images: ImageSource, config: NetConfig) -> None:
        self.source, self.images, self.config = source, images, config
        self.classes, self.root_attrs = images.classes, {}

    def key(self, item_id: str) -> None:
        """Any images make a batch."""

    def load(self, item_id: str) -> tuple[np.ndarray | None, np.ndarray]:
        """Return the image, where the CRF needs it, and the scores."""
        image = self.images.image(item_id) if self.config.crf else None
        return image, self.source.item(item_id).datasets["cam"]

    def compute(self, loaded: Sequence[tuple[str, tuple[np.ndarray | None, np.ndarray]]]) -> list[Item]:
        """Return the masks of a batch."""
        return [self.masked(item_id, scores, image) for item_id, (image, scores) in loaded]

    def masked(self, item_id: str, scores: np.ndarray, image: np.ndarray | None) -> Item:
        """Return the item with the mask of `scores`."""
        mask, confidence = mask_of_scores(scores, self.images.size(item_id), image=image, crf=self.config.crf)
        return Item(item_id, {"mask": mask, "confidence": confidence})


class _NetPart(_ScoredPart):
    """A part to be computed: masks, or the scores themselves."""

    def __init__(self, worker: NetWorker, source: Shard, images: ImageSource) -> None:
        super().__init__(source, images, worker.config)
        self.worker, self.wants_scores = worker, worker.work.kind == "cams"
        self.root_attrs = {"background": "included"} if self.wants_scores else {}

    def key(self, item_id: str) -> tuple[int, int]:
        """Images of one size make a batch."""
        return self.images.size(item_id)

    def load(self, item_id: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the image and its normalised views."""
        image, described = self.images.image(item_id), self.worker.description
        return image, scaled_views(image, self.config.scales, described["mean"], described["std"])

    def compute(self, loaded: Sequence[tuple[str, tuple[np.ndarray, list[np.ndarray]]]]) -> list[Item]:
        """Return the masks or scores of a batch."""
        device, config = self.worker.device, self.config
        height, width = self.images.size(loaded[0][0])
        grid = (-(-height // config.grid_stride), -(-width // config.grid_stride))
        views = [torch.from_numpy(np.stack(of_scale)).to(device, memory_format=torch.channels_last)
                 for of_scale in zip(*(views for _, (_, views) in loaded), strict=True)]
        with torch.autocast(device.type, DTYPES[config.precision], enabled=config.precision != "fp32"):
            scores = fused_scores(self.worker.net, views, grid, flip=config.flip, fusion=config.fusion,
                                  has_background=bool(self.classes[0]))
        # Rounded as stored scores are, so that masks with and without --scores are the same.
        stored = scores.cpu().numpy().astype(np.float16)
        return list(self._items(loaded, stored, (height, width)))

    def _items(self, loaded: Sequence, stored: np.ndarray, size: tuple[int, int]) -> Iterator[Item]:
        for position, (item_id, (image, _)) in enumerate(loaded):
            if self.wants_scores:
                ids = np.arange(stored.shape[1], dtype=np.uint16)
                yield Item(item_id, {"class_ids": ids, "cam": stored[position]},
                           {"height": size[0], "width": size[1], "covers": np.array(size)})
            else:
                yield self.masked(item_id, stored[position], image)
