"""What the `cams` methods do in a worker process: load a network once, and make the items of a part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stages.cams import clip_es, cnn, gradcam, mctformer
from stages.cams.config import CamsConfig, ClipEsConfig, GradcamConfig, MctformerConfig
from stages.cams.tags import choose, parse_tags
from stages.data.source import ImageSource
from stages.data.views import patch_size, patch_views, scaled_views
from stages.errors import BadData, UsageError
from stages.flow.finite import check_finite
from stages.flow.parts import Part
from stages.flow.work import BESIDE, MapWork
from stages.nets.clip import load_clip
from stages.nets.files import load_net
from stages.nets.folding import fold_batch_norm
from stages.nets.layer_maps import LayerMaps
from stages.nets.plain_classifier import input_cell, layer_of, plain_classifier
from stages.nets.precision import DTYPES
from stages.nets.prompts import class_features, templates_of, variant_shares, word_features
from stages.shards import Item, Shard, same_classes


def _device(work: MapWork) -> torch.device:
    """Return the device asked for, with its ordinal where one was given."""
    return torch.device(work.config.device if ":" in work.config.device else work.plain["device"])


class _Part:
    """The images of one part, and which of their classes get a map."""

    def __init__(self, images: ImageSource, config: CamsConfig) -> None:
        self.root_attrs = {"background": "none"}
        self.images, self.classes = images, images.classes
        self.rule, self.threshold = parse_tags(config.tags)

    def check_tags(self, item_id: str) -> None:
        """Raise BadData when the image has no tags and needs them."""
        if self.rule == "index" and self.images.labels(item_id) is None:
            raise BadData("has no tags in the index", "give --tags predicted:0.5 or all", where=item_id)

    def chosen(self, item_id: str, scores: np.ndarray) -> np.ndarray:
        """Return the class ids (K,) of an image, given the scores (C,) of all classes.

        Raises BadData for scores that are not finite: no threshold chooses a NaN, so its image would have no class.
        """
        check_finite(scores, "scores", item_id)
        return choose(self.rule, self.threshold, self.images.labels(item_id), scores)


class CnnWorker:
    """Holds the folded net on its device."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        net, self.description = load_net(work.named["net"])
        self.device = _device(work)
        self.net = fold_batch_norm(net).to(self.device, memory_format=torch.channels_last)
        self.n_subcategories = None if self.config.maps == cnn.CLASSES else net.n_subcategories

    def open(self, part: Part, source: Shard, index: Shard) -> _CnnPart:
        """Begin a part; BadData when the net was trained for other classes."""
        same_classes((str(index.path), index.classes),
                     (str(self.work.named["net"]), tuple(self.description["classes"])))
        return _CnnPart(self, ImageSource(index, self.work.root))


class _CnnPart(_Part):
    """A part of `cams cnn`."""

    def __init__(self, worker: CnnWorker, images: ImageSource) -> None:
        super().__init__(images, worker.config)
        self.worker, self.config = worker, worker.config

    def key(self, item_id: str) -> tuple[int, int]:
        """Images of one size make a batch."""
        return self.images.size(item_id)

    def load(self, item_id: str) -> list[np.ndarray]:
        """Return the image's normalised views, one per scale."""
        self.check_tags(item_id)
        described = self.worker.description
        return scaled_views(self.images.image(item_id), self.config.scales, described["mean"], described["std"])

    def compute(self, loaded: Sequence[tuple[str, list[np.ndarray]]]) -> list[Item]:
        """Return the items of a batch."""
        device = self.worker.device
        views = [view.to(memory_format=torch.channels_last) for view in _stacked(loaded, device)]
        with torch.autocast(device.type, DTYPES[self.config.precision], enabled=self.config.precision != "fp32"):
            maps, scores = cnn.class_maps(self.worker.net, views, flip=self.config.flip, head=self.config.maps)
        return [self._item(item_id, maps, position, scores[position].cpu().numpy())
                for position, (item_id, _) in enumerate(loaded)]

    def _item(self, item_id: str, maps: list[torch.Tensor], position: int, scores: np.ndarray) -> Item:
        class_ids = self.chosen(item_id, scores)
        size = self.images.size(item_id)
        config = self.config
        cam, covers = cnn.merged(
            maps, position, class_ids, size, scales=config.scales, flip=config.flip, grid_stride=config.grid_stride,
            stride=self.worker.description["stride"], alignment=config.alignment,
            first_centre=self.worker.net.backbone.first_centre, n_subcategories=self.worker.n_subcategories)
        datasets: dict[str, Any] = {"class_ids": class_ids, "cam": cam,
                                    "scores": scores[class_ids.astype(int) - 1].astype(np.float32)}
        return Item(item_id, datasets, {"height": size[0], "width": size[1], "covers": np.array(covers)})


class GradcamWorker:
    """Holds the net on its device, and which of its layers is looked at."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config, self.device = work, work.config, _device(work)
        self.net: torch.nn.Module | None = None
        self.classes: tuple[str, ...] | None = None
        if work.named["weights"] is None:
            net, described = load_net(work.named["net"])
            self.classes = tuple(described["classes"])
            self._take(net, described["mean"], described["std"], described["stride"])

    def _take(self, net: torch.nn.Module, mean: Sequence[float], std: Sequence[float], cell: int) -> None:
        self.net = net.eval().requires_grad_(False).to(self.device)
        layer = layer_of(self.net, self.config.layer or getattr(net, "watched_layer", "backbone"))
        self.maps_of = LayerMaps(self.net, layer, cell)
        self.mean, self.std, self.cell = tuple(mean), tuple(std), cell

    def open(self, part: Part, source: Shard, index: Shard) -> _GradcamPart:
        """Begin a part; a net known by name gets as many outputs as the index has classes."""
        if self.net is None:
            name, weights = str(self.work.named["net"]), str(self.work.named["weights"])
            net, mean, std = plain_classifier(name, weights, len(index.classes) - 1)
            self._take(net, mean, std, input_cell(net))
        if self.classes is not None:
            same_classes((str(index.path), index.classes), (str(self.work.named["net"]), self.classes))
        return _GradcamPart(self, ImageSource(index, self.work.root))


class _PatchPart(_Part):
    """A part whose images are resized whole (to multiples of a cell, if `rounding` is not none): the maps span them."""

    def __init__(self, images: ImageSource, config: GradcamConfig | ClipEsConfig | MctformerConfig, cell: int,
                 mean: tuple[float, ...], std: tuple[float, ...], rounding: str = "up") -> None:
        super().__init__(images, config)
        self.config, self.cell, self.mean, self.std, self.rounding = config, cell, mean, std, rounding

    def key(self, item_id: str) -> tuple[tuple[int, int], ...]:
        """Images of one padded size at every scale make a batch."""
        size = self.images.size(item_id)
        return tuple(patch_size(size, scale, self.cell, self.rounding) for scale in self.config.scales)

    def load(self, item_id: str) -> list[np.ndarray]:
        """Return the image's normalised views, one per scale."""
        self.check_tags(item_id)
        image = self.images.image(item_id)
        return patch_views(image, self.config.scales, self.cell, self.mean, self.std, self.rounding)

    def item(self, item_id: str, class_ids: np.ndarray, cam: torch.Tensor, scores: np.ndarray, **more: Any) -> Item:
        """Return the item of maps (K, h, w) with scores (K,) that span the whole image."""
        size = self.images.size(item_id)
        datasets = {"class_ids": class_ids, "cam": _stored(cam), "scores": scores.astype(np.float32), **more}
        return Item(item_id, datasets, {"height": size[0], "width": size[1], "covers": np.array(size)})


class _GradcamPart(_PatchPart):
    """A part of `cams gradcam`."""

    def __init__(self, worker: GradcamWorker, images: ImageSource) -> None:
        super().__init__(images, worker.config, worker.cell, worker.mean, worker.std)
        self.worker = worker

    def compute(self, loaded: Sequence[tuple[str, list[np.ndarray]]]) -> list[Item]:
        """Return the items of a batch."""
        worker, device = self.worker, self.worker.device
        with torch.autocast(device.type, DTYPES[self.config.precision], enabled=self.config.precision != "fp32"):
            found = gradcam.batch_maps(worker.maps_of, _stacked(loaded, device), flip=self.config.flip,
                                       chosen=lambda place, scores: self.chosen(loaded[place][0], scores))
        return [self.item(item_id, ids, maps, scores[ids.astype(int) - 1])
                for (item_id, _), (ids, maps, scores) in zip(loaded, found, strict=True)]


class MctformerWorker:
    """Holds an MCTformer on its device."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config, self.device = work, work.config, _device(work)
        net, self.description = load_net(work.named["net"])
        depth = net.backbone.depth
        if self.config.layers > depth:
            raise UsageError(f"--layers {self.config.layers}: the net has {depth}", f"give 1 to {depth}")
        net.backbone.exact_positions = not self.config.as_released
        self.net = net.requires_grad_(False).to(self.device)

    def open(self, part: Part, source: Shard, index: Shard) -> _MctformerPart:
        """Begin a part; BadData when the net was trained for other classes."""
        same_classes((str(index.path), index.classes),
                     (str(self.work.named["net"]), tuple(self.description["classes"])))
        return _MctformerPart(self, ImageSource(index, self.work.root))


class _MctformerPart(_PatchPart):
    """A part of `cams mctformer`."""

    def __init__(self, worker: MctformerWorker, images: ImageSource) -> None:
        described = worker.description
        super().__init__(images, worker.config, described["stride"], tuple(described["mean"]), tuple(described["std"]),
                         "none" if worker.config.as_released else "down")
        self.worker = worker

    def compute(self, loaded: Sequence[tuple[str, list[np.ndarray]]]) -> list[Item]:
        """Return the items of a batch."""
        device, precision = self.worker.device, self.config.precision
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
            found = mctformer.batch_maps(self.worker.net, _stacked(loaded, device), self.config,
                                         lambda place, scores: self.chosen(loaded[place][0], scores))
        return [self.item(item_id, ids, maps, scores[ids.astype(int) - 1])
                for (item_id, _), (ids, maps, scores) in zip(loaded, found, strict=True)]


class ClipWorker:
    """Holds a frozen CLIP and the vectors of its prompts."""

    def __init__(self, work: MapWork) -> None:
        self.work = work
        self.config: ClipEsConfig = work.config
        self.device = _device(work)
        source, words = work.shared["clip"], work.shared["words"]
        self.clip = load_clip(source, device=self.device, dtype=DTYPES[self.config.precision],
                              round_positions=self.config.as_released)
        templates, text = templates_of(self.config.template), self.clip.text
        classes = class_features(text, words.classes, templates, self.config.fuse)
        background = word_features(text, words.background if self.config.background_words else (), templates)
        empty = classes.new_zeros(0, classes.shape[-1])
        self.text = clip_es.TextSide(classes, background if len(background) else empty, self.clip.scale,
                                     variant_shares(words.classes, self.config.fuse))

    def open(self, part: Part, source: Shard, index: Shard) -> _ClipPart:
        """Begin a part."""
        return _ClipPart(self, ImageSource(index, self.work.root))


class _ClipPart(_PatchPart):
    """A part of `cams clip-es`."""

    def __init__(self, worker: ClipWorker, images: ImageSource) -> None:
        clip = worker.clip
        super().__init__(images, worker.config, clip.vision.cell, clip.mean, clip.std)
        self.worker = worker

    def compute(self, loaded: Sequence[tuple[str, list[np.ndarray]]]) -> list[Item]:
        """Return the items of a batch."""
        worker = self.worker
        threshold = worker.work.plain["box_threshold"]
        views = _stacked(loaded, worker.device)
        found = clip_es.batch_maps(worker.clip.vision, views, worker.text, self.config, threshold,
                                   lambda place, scores: self.chosen(loaded[place][0], scores))
        return [self._item(item_id, maps) for (item_id, _), maps in zip(loaded, found, strict=True)]

    def _item(self, item_id: str, maps: clip_es.ImageMaps) -> Item:
        beside = {BESIDE + "cam": _stored(maps.raw)} if self.worker.work.beside is not None else {}
        return self.item(item_id, maps.class_ids, maps.refined, maps.scores, **beside)


def _stored(maps: torch.Tensor) -> np.ndarray:
    return maps.float().cpu().numpy().astype(np.float16)


def _stacked(loaded: Sequence[tuple[str, list[np.ndarray]]], device: torch.device) -> list[torch.Tensor]:
    """Return one tensor (B, 3, H, W) per scale."""
    return [torch.from_numpy(np.stack(of_scale)).to(device) for of_scale in
            zip(*(views for _, views in loaded), strict=True)]
