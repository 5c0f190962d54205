"""Workers of the `segment` methods: they compute masks, or the scores from which masks are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.data.augment import IMAGENET_MEAN, IMAGENET_STD, normalise
from stages.data.class_vocabulary import ClassWords
from stages.data.image_source import ImageSource
from stages.data.inference_views import build_corner_aligned_views, build_scaled_views, resize_short_side
from stages.data.single_image import SingleImage
from stages.errors import Unavailable
from stages.flow.finite import check_finite
from stages.flow.map_work import MapWork
from stages.flow.parts import Part
from stages.flow.word_cache import CachedWordVectors
from stages.kernels.dense_last_block import AttentionFunction, compute_dense_embeddings
from stages.kernels.sliding_windows import SlidingWindows
from stages.nets.clip import load_clip
from stages.nets.clip_text import TextTower
from stages.nets.clip_vision import VisionTower
from stages.nets.net_files import load_net
from stages.nets.precision import DTYPES
from stages.nets.prompt_encoding import encode_words, load_templates
from stages.nets.proxy import Proxy, load_proxy
from stages.segment import clearclip, grounded, maskclip, naclip, proxyclip, sclip
from stages.segment.config import GroundedConfig, ProxyclipConfig, TextConfig, WordsConfig
from stages.segment.dense_text import Embed, WordVectors, choose_grid, score_image
from stages.segment.net import build_masks, compute_fused_scores
from stages.shards import Item, Shard, check_same_classes

Vectors = tuple[Tensor, Tensor | None]
# The attention that replaces that of CLIP's last block, by method.
METHODS: dict[str, Callable[[Any], AttentionFunction]] = {
    "maskclip": lambda config: maskclip.compute_context, "sclip": lambda config: sclip.compute_context,
    "clearclip": lambda config: clearclip.compute_context,
    "naclip": lambda config: partial(naclip.compute_context, deviation=config.deviation)}


def _select_device(work: MapWork) -> torch.device:
    """Return the requested device, with its ordinal if there is one."""
    return torch.device(work.config.device if ":" in work.config.device else work.config_dict["device"])


class StoredScoresWorker:
    """Makes masks from stored scores."""

    def __init__(self, work: MapWork) -> None:
        self.work = work

    def open(self, part: Part, source: Shard, index: Shard) -> _StoredScoresPart:
        """Open a part."""
        images = ImageSource(index, self.work.root, max_side=self.work.config.max_side)
        return _StoredScoresPart(source, images, source.classes, self.work)


class NetWorker:
    """Segments images with a network of `train-seg`, which it holds on its device."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config, self.device = work, work.config, _select_device(work)
        net, self.description = load_net(work.named["net"])
        self.net = net.to(self.device, memory_format=torch.channels_last)

    def open(self, part: Part, source: Shard, index: Shard) -> _NetPart:
        """Open a part. Raises BadData if the network was trained for other classes."""
        check_same_classes((str(index.path), index.classes),
                           (str(self.work.named["net"]), tuple(self.description["classes"])))
        return self.open_images(ImageSource(index, self.work.root, max_side=self.config.max_side))

    def open_images(self, images: ImageSource | SingleImage) -> _NetPart:
        """Open images of the classes of the network."""
        return _NetPart(self, images)


class _StoredScoresPart:
    """A part whose scores are read from a shard."""

    def __init__(self, source: Shard | None, images: ImageSource | SingleImage, classes: tuple[str, ...],
                 work: MapWork) -> None:
        """`source` holds the scores, and is None for a part that computes them."""
        self.source, self.images, self.classes, self.work, self.config = source, images, classes, work, work.config
        self.crf = getattr(work.config, "crf", "")
        self.should_store_scores = work.kind == "cams"
        self.root_attrs = {"background": "included"} if self.should_store_scores else {}

    def batch_key(self, item_id: str) -> Any:
        """Return None: images of any size can be batched together."""

    def count_pixels(self, item_id: str) -> int:
        """Return the number of pixels at which the image is computed."""
        return math.prod(self.images.read_input_size(item_id))

    def load(self, item_id: str) -> Any:
        """Return the image, or None if there is no CRF, and the scores."""
        image = self.images.read_image(item_id) if self.crf else None
        return image, self.source.item(item_id).datasets["cam"]

    def compute(self, loaded: Sequence[tuple[str, Any]]) -> list[Item]:
        """Return the masks of a batch."""
        return self.build_mask_items([item_id for item_id, _ in loaded], [scores for _, (_, scores) in loaded],
                                     [image for _, (image, _) in loaded])

    def build_mask_items(self, item_ids: Sequence[str], scores: Sequence[np.ndarray],
                         images: Sequence[np.ndarray | None]) -> list[Item]:
        """Return the items with the masks of `scores`. Raises BadData if they are not finite."""
        for item_id, image_scores in zip(item_ids, scores, strict=True):
            check_finite(image_scores, "scores", item_id)
        sizes = [self.images.read_size(item_id) for item_id in item_ids]
        crf_images = [image for image in images if image is not None] if self.crf else []
        masks = build_masks(scores, sizes, crf_images, self.crf, self.work.config_dict.get("engine", "numba"),
                            str(_select_device(self.work)))
        return [Item(item_id, {"mask": mask, "confidence": confidence})
                for item_id, (mask, confidence) in zip(item_ids, masks, strict=True)]

    def build_items(self, item_ids: Sequence[str], scores: Sequence[np.ndarray],
                    images: Sequence[np.ndarray | None]) -> list[Item]:
        """Return the items that this run stores: the float16 scores (C + 1, h, w), or their masks."""
        if not self.should_store_scores:
            return self.build_mask_items(item_ids, scores, images)
        return [self._build_score_item(item_id, image_scores)
                for item_id, image_scores in zip(item_ids, scores, strict=True)]

    def _build_score_item(self, item_id: str, scores: np.ndarray) -> Item:
        height, width = self.images.read_size(item_id)
        return Item(item_id, {"class_ids": np.arange(len(scores), dtype=np.uint16), "cam": scores},
                    {"height": height, "width": width, "covers": np.array((height, width))})


class _NetPart(_StoredScoresPart):
    """A part whose scores are computed by a network."""

    def __init__(self, worker: NetWorker, images: ImageSource | SingleImage) -> None:
        super().__init__(None, images, images.classes, worker.work)
        self.worker = worker

    def batch_key(self, item_id: str) -> tuple[int, int]:
        """Return the image size: images of equal size are batched together."""
        return self.images.read_input_size(item_id)

    def load(self, item_id: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the image and its normalised views."""
        image, description = self.images.read_image(item_id), self.worker.description
        build_views = build_corner_aligned_views if self.config.resize == "corners" else build_scaled_views
        return image, build_views(image, self.config.scales, description["mean"], description["std"])

    def compute(self, loaded: Sequence[tuple[str, tuple[np.ndarray, list[np.ndarray]]]]) -> list[Item]:
        """Return the masks or scores of a batch."""
        device, config = self.worker.device, self.config
        height, width = self.images.read_input_size(loaded[0][0])
        grid = (-(-height // config.grid_stride), -(-width // config.grid_stride))
        views = [torch.from_numpy(np.stack(views_at_scale)).to(device, memory_format=torch.channels_last)
                 for views_at_scale in zip(*(views for _, (_, views) in loaded), strict=True)]
        with torch.autocast(device.type, DTYPES[config.precision], enabled=config.precision != "fp32"):
            scores = compute_fused_scores(self.worker.net, views, grid, flip=config.flip, fusion=config.fusion,
                                          has_background=bool(self.classes[0]))
        # Rounded like stored scores, so that masks with and without --scores are the same.
        rounded = scores.cpu().numpy().astype(np.float16)
        return self.build_items([item_id for item_id, _ in loaded], rounded, [image for _, (image, _) in loaded])


class WordVectorCache:
    """The vectors of the words of the classes, encoded at once, with and without those of the background."""

    def __init__(self, words: ClassWords, config: WordsConfig, encode: Callable[[list[str]], Vectors]) -> None:
        """`encode` returns unit vectors (Q, E) of words, and those for CLIP's own map or None."""
        self.words = words
        background_words = words.background if config.background in ("words", "both") else ()
        self._vectors = {has_background: _encode_groups([background_words if has_background else (), *words.classes],
                                                        has_background, encode) for has_background in (True, False)}

    def __call__(self, has_background: bool) -> WordVectors:
        """Return the vectors of the words, with the background words if there is a background and they compete."""
        return self._vectors[has_background]


def _encode_groups(groups: Sequence[Sequence[str]], has_background: bool,
                   encode: Callable[[list[str]], Vectors]) -> WordVectors:
    """Encode the words of the background and of each class."""
    vectors, clip_vectors = encode([word for words in groups for word in words])
    return WordVectors(vectors, tuple(map(len, groups)), has_background, clip_vectors)


class TextWorker:
    """Compares images with words by a frozen CLIP with the attention of the method; caches the word vectors."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.device = work, _select_device(work)
        self.config: TextConfig = work.config
        positions = "beside" if self.config.as_released and work.method != "maskclip" else "bicubic"
        clip = load_clip(work.shared["clip"], device=self.device, dtype=DTYPES[self.config.precision],
                         positions=positions)
        if not isinstance(clip.vision, VisionTower):
            raise Unavailable(f"`wsss segment {work.method}` changes the last block of a ViT, and the image tower of "
                              f"{work.config_dict['clip']} is not an ordinary ViT", "Choose one with --clip, for "
                              "example --clip ViT-B-16")
        from_imagenet = self.config.statistics == "imagenet"
        self.mean, self.std = (IMAGENET_MEAN, IMAGENET_STD) if from_imagenet else (clip.mean, clip.std)
        self.cell = clip.vision.cell
        # Encoded before anything else is loaded: after that, only the image tower is needed, and the text tower of a
        # ViT-B takes 250 MB.
        self.word_vectors = self._encode_words(clip.text)
        vision = clip.vision
        del clip
        self.score_image = partial(score_image, self._build_embed(vision), config=self.config)

    def _encode_words(self, text: TextTower) -> WordVectorCache:
        templates = load_templates(self.config.template)
        encode = CachedWordVectors({**self.work.shared["clip"].compute_digests(), "templates": templates}, self.device,
                                   lambda word: encode_words(text, [word], templates)[0])
        return WordVectorCache(self.work.shared["words"], self.config, lambda words: (encode(words), None))

    def _build_embed(self, tower: VisionTower) -> Embed:
        """Return the function that embeds the patches of windows."""
        config = self.config
        if isinstance(config, ProxyclipConfig):
            proxy = load_proxy(self.work.shared["proxy"], self.device, self.mean, self.std)
            return partial(embed_with_proxy, tower, proxy, config)
        attend = METHODS[self.work.method](config)
        return partial(embed_with_attention, tower, attend, getattr(config, "whole_block", True))

    def open(self, part: Part, source: Shard, index: Shard) -> TextPart:
        """Open a part."""
        return self.open_images(ImageSource(index, self.work.root, max_side=self.config.max_side))

    def open_images(self, images: ImageSource | SingleImage) -> TextPart:
        """Open images, whose background is the only class that they bring."""
        return TextPart(self, images)


class GroundedWorker:
    """Compares images with words by a network of `train-text`; caches the word vectors."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.device = work, _select_device(work)
        self.config: GroundedConfig = work.config
        net, _ = load_net(work.named["net"])
        net = net.to(self.device)
        self.mean, self.std, self.cell = net.mean, net.std, net.clip.cell
        precision = self.config.precision
        cast = torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32")
        if self.config.score == "softmax":
            embed = partial(grounded.embed_windows, net, cast)
            self.score_image = partial(score_image, embed, config=self.config)
        else:
            self.score_image = partial(grounded.score_image_by_masks, net, config=self.config, cast=cast)
        templates = load_templates(self.config.template)
        encode = CachedWordVectors({"net": work.digests["net"], "templates": templates}, self.device,
                                   lambda word: torch.cat(net.encode_class_words([word], templates), dim=1)[0])
        self.word_vectors = WordVectorCache(work.shared["words"], self.config,
                                            lambda words: _split_vectors(encode(words)))
        net.clip.release_text_tower()

    def open(self, part: Part, source: Shard, index: Shard) -> TextPart:
        """Open a part."""
        return self.open_images(ImageSource(index, self.work.root, max_side=self.config.max_side))

    def open_images(self, images: ImageSource | SingleImage) -> TextPart:
        """Open images, whose background is the only class that they bring."""
        return TextPart(self, images)


def _split_vectors(vectors: Tensor) -> Vectors:
    """Split rows (Q, 2 E) into the vectors (Q, E) for the learnt map and those for CLIP's own map."""
    learnt_vectors, clip_vectors = vectors.chunk(2, dim=1)
    return learnt_vectors.contiguous(), clip_vectors.contiguous()


def embed_with_attention(tower: VisionTower, attend: AttentionFunction, whole_block: bool, windows: Tensor) -> Tensor:
    """Return the embeddings (B, E, h, w) of the patches of `windows` (B, 3, H, W)."""
    tokens, grid = tower.forward_trunk(windows)
    embeddings = compute_dense_embeddings(tower.tail, tokens, grid, attend, whole_block=whole_block)
    return embeddings.transpose(1, 2).unflatten(-1, grid)


def embed_with_proxy(tower: VisionTower, proxy: Proxy, config: ProxyclipConfig, windows: Tensor) -> Tensor:
    """Return the embeddings (B, E, h, w) of `windows` (B, 3, H, W) on the grid of the proxy's patches."""
    tokens, grid = tower.forward_trunk(windows)
    features = proxy.features(windows)
    attend = partial(proxyclip.compute_context, features=features, beta=config.beta, gamma=config.gamma)
    embeddings = compute_dense_embeddings(tower.tail, tokens, grid, attend, whole_block=False)
    return embeddings.transpose(1, 2).unflatten(-1, tuple(features.shape[2:]))


class TextPart(_StoredScoresPart):
    """A part whose scores come from comparing its images with words."""

    def __init__(self, worker: TextWorker | GroundedWorker, images: ImageSource | SingleImage) -> None:
        super().__init__(None, images, (images.classes[0], *worker.word_vectors.words.names), worker.work)
        self.worker = worker
        self.text = worker.word_vectors(bool(self.classes[0]))

    def load(self, item_id: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the image and its resized, normalised view (3, H', W')."""
        image = self.images.read_image(item_id)
        config, worker = self.worker.config, self.worker
        resized = resize_short_side(image, config.short_side, config.long_side, smooth=config.smooth)
        return image, normalise(resized, tuple(worker.mean), tuple(worker.std))

    def compute(self, loaded: Sequence[tuple[str, tuple[np.ndarray, np.ndarray]]]) -> list[Item]:
        """Return the masks or scores of a batch."""
        return [self._build_scored_item(item_id, image, view) for item_id, (image, view) in loaded]

    def _build_scored_item(self, item_id: str, image: np.ndarray, view: np.ndarray) -> Item:
        worker, config = self.worker, self.worker.config
        windows = SlidingWindows((view.shape[1], view.shape[2]), config.window, config.stride, worker.cell)
        colours = torch.from_numpy(image).permute(2, 0, 1).to(worker.device, torch.float32)
        scores = worker.score_image(torch.from_numpy(view).to(worker.device), colours, windows, self.text,
                                    choose_grid(image.shape[:2], config.grid_stride))
        return self.build_items([item_id], [scores.cpu().numpy().astype(np.float16)], [None])[0]
