"""What the `segment` methods do in a worker process: masks, or the scores that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.data.augment import IMAGENET_MEAN, IMAGENET_STD, normalise
from stages.data.class_words import ClassWords
from stages.data.source import ImageSource
from stages.data.views import corner_views, scaled_views, short_side_image
from stages.errors import Unavailable
from stages.flow.finite import check_finite
from stages.flow.kept_vectors import KeptVectors
from stages.flow.parts import Part
from stages.flow.work import MapWork
from stages.kernels.dense_tail import Attend, dense_embeddings
from stages.kernels.windows import Windows
from stages.nets.clip import load_clip
from stages.nets.clip_vision import VisionTower
from stages.nets.files import load_net
from stages.nets.precision import DTYPES
from stages.nets.prompts import templates_of, word_features
from stages.nets.proxy import Proxy, load_proxy
from stages.segment import clearclip, grounded, maskclip, naclip, proxyclip, sclip
from stages.segment.config import GroundedConfig, ProxyclipConfig, TextConfig, WordsConfig
from stages.segment.dense_text import Embed, TextSide, grid_of, image_scores
from stages.segment.net import fused_scores, mask_of_scores
from stages.shards import Item, Shard, same_classes

Vectors = tuple[Tensor, Tensor | None]
# Which attention replaces that of CLIP's last block.
METHODS: dict[str, Callable[[Any], Attend]] = {
    "maskclip": lambda config: maskclip.context, "sclip": lambda config: sclip.context,
    "clearclip": lambda config: clearclip.context,
    "naclip": lambda config: partial(naclip.context, deviation=config.deviation)}


def _device(work: MapWork) -> torch.device:
    """Return the device asked for, with its ordinal where one was given."""
    return torch.device(work.config.device if ":" in work.config.device else work.plain["device"])


class ScoredWorker:
    """Makes masks of scores that are there already."""

    def __init__(self, work: MapWork) -> None:
        self.work = work

    def open(self, part: Part, source: Shard, index: Shard) -> _ScoredPart:
        """Begin a part."""
        return _ScoredPart(source, ImageSource(index, self.work.root), source.classes, self.work)


class NetWorker:
    """Holds the net on its device."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config, self.device = work, work.config, _device(work)
        net, self.description = load_net(work.named["net"])
        self.net = net.to(self.device, memory_format=torch.channels_last)

    def open(self, part: Part, source: Shard, index: Shard) -> _NetPart:
        """Begin a part; BadData when the net was trained for other classes."""
        same_classes((str(index.path), index.classes),
                     (str(self.work.named["net"]), tuple(self.description["classes"])))
        return _NetPart(self, source, ImageSource(index, self.work.root))


class _ScoredPart:
    """A part whose scores are there already."""

    def __init__(self, source: Shard, images: ImageSource, classes: tuple[str, ...], work: MapWork) -> None:
        self.source, self.images, self.classes, self.work, self.config = source, images, classes, work, work.config
        self.crf = getattr(work.config, "crf", "")
        self.wants_scores = work.kind == "cams"
        self.root_attrs = {"background": "included"} if self.wants_scores else {}

    def key(self, item_id: str) -> Any:
        """Any images make a batch."""

    def load(self, item_id: str) -> Any:
        """Return the image, where the CRF needs it, and the scores."""
        image = self.images.image(item_id) if self.crf else None
        return image, self.source.item(item_id).datasets["cam"]

    def compute(self, loaded: Sequence[tuple[str, Any]]) -> list[Item]:
        """Return the masks of a batch."""
        return [self.masked(item_id, scores, image) for item_id, (image, scores) in loaded]

    def masked(self, item_id: str, scores: np.ndarray, image: np.ndarray | None) -> Item:
        """Return the item with the mask of `scores`. Raises BadData for scores that are not finite."""
        check_finite(scores, "scores", item_id)
        mask, confidence = mask_of_scores(scores, self.images.size(item_id), image=image, crf=self.crf)
        return Item(item_id, {"mask": mask, "confidence": confidence})

    def made(self, item_id: str, scores: np.ndarray, image: np.ndarray | None) -> Item:
        """Return the item: the float16 scores (C + 1, h, w) themselves where these are wanted, else their mask."""
        if not self.wants_scores:
            return self.masked(item_id, scores, image)
        height, width = self.images.size(item_id)
        return Item(item_id, {"class_ids": np.arange(len(scores), dtype=np.uint16), "cam": scores},
                    {"height": height, "width": width, "covers": np.array((height, width))})


class _NetPart(_ScoredPart):
    """A part to be computed: masks, or the scores themselves."""

    def __init__(self, worker: NetWorker, source: Shard, images: ImageSource) -> None:
        super().__init__(source, images, images.classes, worker.work)
        self.worker = worker

    def key(self, item_id: str) -> tuple[int, int]:
        """Images of one size make a batch."""
        return self.images.size(item_id)

    def load(self, item_id: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the image and its normalised views."""
        image, described = self.images.image(item_id), self.worker.description
        resized_views = corner_views if self.config.resize == "corners" else scaled_views
        return image, resized_views(image, self.config.scales, described["mean"], described["std"])

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
        return [self.made(item_id, one, image) for (item_id, (image, _)), one in zip(loaded, stored, strict=True)]


class WordSides:
    """The vectors of the words, which are encoded once: with those of the background where there is one."""

    def __init__(self, words: ClassWords, config: WordsConfig, encode: Callable[[list[str]], Vectors]) -> None:
        """`encode` gives unit vectors (Q, E) of words, and those for CLIP's own map or None."""
        self.words, self._encode = words, encode
        self._rivals = config.background in ("words", "both")
        self._known: dict[bool, TextSide] = {}

    def __call__(self, background: bool) -> TextSide:
        """Return the words' vectors, those of the background among them where there is one and they compete."""
        if background not in self._known:
            groups = [self.words.background if background and self._rivals else (), *self.words.classes]
            vectors, kept = self._encode([word for words in groups for word in words])
            self._known[background] = TextSide(vectors, tuple(map(len, groups)), background, kept)
        return self._known[background]


class TextWorker:
    """Holds a frozen CLIP with the method's attention, and the vectors of the words."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.device = work, _device(work)
        self.config: TextConfig = work.config
        positions = "beside" if self.config.as_released and work.method != "maskclip" else "bicubic"
        self.clip = load_clip(work.shared["clip"], device=self.device, dtype=DTYPES[self.config.precision],
                              positions=positions)
        if not isinstance(self.clip.vision, VisionTower):
            raise Unavailable(f"the image tower of {work.plain['clip']} is no ordinary ViT, whose last block could be "
                              "changed", "give --clip a ViT such as ViT-B-16")
        named = self.config.statistics == "imagenet"
        self.mean, self.std = (IMAGENET_MEAN, IMAGENET_STD) if named else (self.clip.mean, self.clip.std)
        self.cell = self.clip.vision.cell
        self.scores = partial(image_scores, self._embedding(self.clip.vision), config=self.config)
        templates = templates_of(self.config.template)
        kept = KeptVectors({**work.shared["clip"].digests(), "templates": templates}, self.device,
                           lambda word: word_features(self.clip.text, [word], templates)[0])
        self.text = WordSides(work.shared["words"], self.config, lambda words: (kept(words), None))

    def _embedding(self, tower: VisionTower) -> Embed:
        config = self.config
        if isinstance(config, ProxyclipConfig):
            proxy = load_proxy(self.work.shared["proxy"], self.device, self.mean, self.std)
            return partial(by_proxy, tower, proxy, config)
        return partial(by_itself, tower, METHODS[self.work.method](config), getattr(config, "whole_block", True))

    def open(self, part: Part, source: Shard, index: Shard) -> _TextPart:
        """Begin a part."""
        return _TextPart(self, source, ImageSource(index, self.work.root))


class GroundedWorker:
    """Holds a net of `train-text` on its device, and the vectors of the words."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.device = work, _device(work)
        self.config: GroundedConfig = work.config
        net, _ = load_net(work.named["net"])
        net = net.to(self.device)
        self.mean, self.std, self.cell = net.mean, net.std, net.clip.cell
        precision = self.config.precision
        cast = torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32")
        if self.config.score == "softmax":
            self.scores = partial(image_scores, partial(grounded.embed, net, cast), config=self.config)
        else:
            self.scores = partial(grounded.mask_scores, net, config=self.config, cast=cast)
        templates = templates_of(self.config.template)
        kept = KeptVectors({"net": work.digests["net"], "templates": templates}, self.device,
                           lambda word: torch.cat(net.word_vectors([word], templates), dim=1)[0])
        self.text = WordSides(work.shared["words"], self.config, lambda words: _halves(kept(words)))

    def open(self, part: Part, source: Shard, index: Shard) -> _TextPart:
        """Begin a part."""
        return _TextPart(self, source, ImageSource(index, self.work.root))


def _halves(vectors: Tensor) -> Vectors:
    """Return the vectors (Q, E) for the learnt map and those for CLIP's own, of both in one row (Q, 2 E)."""
    learnt, own = vectors.chunk(2, dim=1)
    return learnt.contiguous(), own.contiguous()


def by_itself(tower: VisionTower, attend: Attend, whole_block: bool, windows: Tensor) -> Tensor:
    """Return the embeddings (B, E, h, w) of the patches of `windows` (B, 3, H, W)."""
    tokens, grid = tower.trunk(windows)
    found = dense_embeddings(tower.tail, tokens, grid, attend, whole_block=whole_block)
    return found.transpose(1, 2).unflatten(-1, grid)


def by_proxy(tower: VisionTower, proxy: Proxy, config: ProxyclipConfig, windows: Tensor) -> Tensor:
    """Return the embeddings (B, E, h, w) of the proxy's cells of `windows` (B, 3, H, W)."""
    tokens, grid = tower.trunk(windows)
    features = proxy.features(windows)
    attend = partial(proxyclip.context, features=features, beta=config.beta, gamma=config.gamma)
    found = dense_embeddings(tower.tail, tokens, grid, attend, whole_block=False)
    return found.transpose(1, 2).unflatten(-1, tuple(features.shape[2:]))


class _TextPart(_ScoredPart):
    """A part to be compared with words."""

    def __init__(self, worker: TextWorker | GroundedWorker, source: Shard, images: ImageSource) -> None:
        super().__init__(source, images, (images.classes[0], *worker.text.words.names), worker.work)
        self.worker = worker
        # Here and not at the first image: words that can't be encoded are no fault of an image.
        self.text = worker.text(bool(self.classes[0]))

    def load(self, item_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the image and its normalised view (3, H', W')."""
        image = self.images.image(item_id)
        config, worker = self.worker.config, self.worker
        resized = short_side_image(image, config.short_side, config.long_side, smooth=config.smooth)
        return image, normalise(resized, tuple(worker.mean), tuple(worker.std))

    def compute(self, loaded: Sequence[tuple[str, tuple[np.ndarray, np.ndarray]]]) -> list[Item]:
        """Return the masks or scores of a batch."""
        return [self._item(item_id, image, view) for item_id, (image, view) in loaded]

    def _item(self, item_id: str, image: np.ndarray, view: np.ndarray) -> Item:
        worker, config = self.worker, self.worker.config
        windows = Windows((view.shape[1], view.shape[2]), config.window, config.stride, worker.cell)
        picture = torch.from_numpy(image).permute(2, 0, 1).to(worker.device, torch.float32)
        scores = worker.scores(torch.from_numpy(view).to(worker.device), picture, windows, self.text,
                               grid_of(image.shape[:2], config.grid_stride))
        return self.made(item_id, scores.cpu().numpy().astype(np.float16), None)
