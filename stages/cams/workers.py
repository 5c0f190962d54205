"""Workers of the `cams` methods: each process loads a network once and computes the CAMs of the images of a part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stages.cams import clip_es, cnn, gradcam, mctformer
from stages.cams.class_selection import NO_TAGS_REMEDY, find_class_ids, parse_tags, select_class_ids
from stages.cams.config import CamsConfig, ClipEsConfig, GradcamConfig, MctformerConfig
from stages.data.image_size import scale_covers
from stages.data.image_source import ImageSource
from stages.data.inference_views import build_patch_aligned_views, build_scaled_views, round_size_to_patches
from stages.data.single_image import SingleImage
from stages.errors import BadData, UsageError
from stages.flow.finite import check_finite
from stages.flow.map_work import COMPANION_PREFIX, MapWork
from stages.flow.parts import Part
from stages.nets.activation_fusion import fuse_activations
from stages.nets.batch_norm_folding import fold_batch_norm
from stages.nets.clip import load_clip
from stages.nets.layer_maps import LayerMapExtractor
from stages.nets.library_classifier import find_layer, find_size_divisor, load_library_classifier
from stages.nets.net_files import load_net
from stages.nets.precision import DTYPES
from stages.nets.prompt_encoding import compute_variant_weights, encode_classes, encode_words, load_templates
from stages.shards import Item, Shard, check_same_classes


def select_device(work: MapWork) -> torch.device:
    """Return the device of the work, with the ordinal if the user gave one (cuda:1)."""
    return torch.device(work.config.device if ":" in work.config.device else work.config_dict["device"])


class CamsPart:
    """The images of one part, and the rule that selects which of their classes get a CAM."""

    def __init__(self, images: ImageSource | SingleImage, config: CamsConfig) -> None:
        self.root_attrs = {"background": "none"}
        self.images, self.classes = images, images.classes
        self.rule, self.threshold = parse_tags(config.tags)
        self.chosen_ids = np.array(find_class_ids(config.classes, self.classes), dtype=np.uint16)

    def count_pixels(self, item_id: str) -> int:
        """Return the number of pixels at which the image is computed."""
        return math.prod(self.images.read_input_size(item_id))

    def check_tags(self, item_id: str) -> None:
        """Raise BadData if the rule needs tags and the image has none."""
        if not len(self.chosen_ids) and self.rule == "index" and self.images.read_labels(item_id) is None:
            raise BadData("the index has no tags for this image", NO_TAGS_REMEDY, where=item_id)

    def choose_classes(self, item_id: str, scores: np.ndarray) -> np.ndarray:
        """Return the class ids (K,) that get a CAM in an image, given the scores (C,) of all classes.

        Raises BadData if a score is not finite: no threshold selects NaN, so the image would silently get no class.
        """
        check_finite(scores, "scores", item_id)
        if len(self.chosen_ids):
            return self.chosen_ids
        return select_class_ids(self.rule, self.threshold, self.images.read_labels(item_id), scores)

    def build_item(self, item_id: str, class_ids: np.ndarray, cam: torch.Tensor, scores: np.ndarray,
                   **companion_datasets: Any) -> Item:
        """Build the item of CAMs (K, h, w) that span the whole image, with scores (K,)."""
        size = self.images.read_size(item_id)
        datasets = {"class_ids": class_ids, "cam": _to_float16(cam), "scores": scores.astype(np.float32),
                    **companion_datasets}
        return Item(item_id, datasets, {"height": size[0], "width": size[1], "covers": np.array(size)})

    def build_refined_item(self, item_id: str, maps: clip_es.ImageMaps, *, with_raw: bool) -> Item:
        """Build the item of refined CAMs, with the raw ones for the companion."""
        companion = {COMPANION_PREFIX + "cam": _to_float16(maps.raw)} if with_raw else {}
        return self.build_item(item_id, maps.class_ids, maps.refined, maps.scores, **companion)


class CnnWorker:
    """Holds a classifier on its device, with batch normalisation folded into the convolutions.

    On a CPU the convolutions also apply the activations after them.
    """

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        net, self.description = load_net(work.named["net"])
        self.device = select_device(work)
        folded = fold_batch_norm(net).to(self.device, memory_format=torch.channels_last)
        self.net = fuse_activations(folded) if self.device.type == "cpu" else folded
        self.n_subcategories = None if self.config.maps == cnn.CLASSES else net.n_subcategories

    def open(self, part: Part, source: Shard, index: Shard) -> _CnnPart:
        """Open a part. Raises BadData if the network was trained for other classes."""
        check_same_classes((str(index.path), index.classes),
                           (str(self.work.named["net"]), tuple(self.description["classes"])))
        return self.open_images(ImageSource(index, self.work.root, max_side=self.config.max_side))

    def open_images(self, images: ImageSource | SingleImage) -> _CnnPart:
        """Open images of the classes of the network."""
        return _CnnPart(self, images)


class _CnnPart(CamsPart):
    """A part of `cams cnn`."""

    def __init__(self, worker: CnnWorker, images: ImageSource | SingleImage) -> None:
        super().__init__(images, worker.config)
        self.worker, self.config = worker, worker.config

    def batch_key(self, item_id: str) -> tuple[int, int]:
        """Return the image size: images of equal size can be batched together."""
        return self.images.read_input_size(item_id)

    def load(self, item_id: str) -> list[np.ndarray]:
        """Load the image's normalised views, one per scale."""
        self.check_tags(item_id)
        description = self.worker.description
        return build_scaled_views(self.images.read_image(item_id), self.config.scales, description["mean"],
                                  description["std"])

    def compute(self, loaded: Sequence[tuple[str, list[np.ndarray]]]) -> list[Item]:
        """Compute the CAMs of a batch of images with equal keys, one item per image."""
        device = self.worker.device
        views = (view.to(memory_format=torch.channels_last) for view in _stack_views(loaded, device))
        with torch.autocast(device.type, DTYPES[self.config.precision], enabled=self.config.precision != "fp32"):
            maps, scores = cnn.compute_class_maps(self.worker.net, views, flip=self.config.flip, head=self.config.maps)
        return [self._build_item(item_id, maps, position, scores[position].cpu().numpy())
                for position, (item_id, _) in enumerate(loaded)]

    def _build_item(self, item_id: str, maps: list[torch.Tensor], position: int, scores: np.ndarray) -> Item:
        class_ids = self.choose_classes(item_id, scores)
        size, input_size = self.images.read_size(item_id), self.images.read_input_size(item_id)
        config = self.config
        cam, covers = cnn.merge_class_maps(
            maps, position, class_ids, input_size, scales=config.scales, flip=config.flip,
            grid_stride=config.grid_stride, stride=self.worker.description["stride"], alignment=config.alignment,
            first_cell_centre=self.worker.net.backbone.first_cell_centre, n_subcategories=self.worker.n_subcategories)
        datasets: dict[str, Any] = {"class_ids": class_ids, "cam": cam,
                                    "scores": scores[class_ids.astype(int) - 1].astype(np.float32)}
        covers = scale_covers(covers, input_size, size)
        return Item(item_id, datasets, {"height": size[0], "width": size[1], "covers": np.array(covers)})


class GradcamWorker:
    """Holds a network on its device, and the layer whose maps are extracted."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config, self.device = work, work.config, select_device(work)
        self.net: torch.nn.Module | None = None
        self.classes: tuple[str, ...] | None = None
        if work.named["weights"] is None:
            net, description = load_net(work.named["net"])
            self.classes = tuple(description["classes"])
            self._prepare_net(net, description["mean"], description["std"], description["stride"])

    def _prepare_net(self, net: torch.nn.Module, mean: Sequence[float], std: Sequence[float], cell: int) -> None:
        self.net = net.eval().requires_grad_(False).to(self.device)
        layer = find_layer(self.net, self.config.layer or getattr(net, "default_cam_layer", "backbone"))
        self.layer_maps = LayerMapExtractor(self.net, layer, cell)
        self.mean, self.std, self.cell = tuple(mean), tuple(std), cell

    def open(self, part: Part, source: Shard, index: Shard) -> _GradcamPart:
        """Open a part; a network given by its library name gets one output per class of the index."""
        if self.net is None:
            name, weights = str(self.work.named["net"]), str(self.work.named["weights"])
            net, mean, std = load_library_classifier(name, weights, len(index.classes) - 1)
            self._prepare_net(net, mean, std, find_size_divisor(net))
        if self.classes is not None:
            check_same_classes((str(index.path), index.classes), (str(self.work.named["net"]), self.classes))
        return self.open_images(ImageSource(index, self.work.root, max_side=self.config.max_side))

    def open_images(self, images: ImageSource | SingleImage) -> _GradcamPart:
        """Open images of the classes of the network, which must be loaded."""
        return _GradcamPart(self, images)


class _PatchPart(CamsPart):
    """A part whose CAMs span the whole image, which is resized to multiples of a cell unless `rounding` is none."""

    def __init__(self, images: ImageSource | SingleImage, config: GradcamConfig | ClipEsConfig | MctformerConfig,
                 cell: int, mean: tuple[float, ...], std: tuple[float, ...], rounding: str = "up") -> None:
        super().__init__(images, config)
        self.config, self.cell, self.mean, self.std, self.rounding = config, cell, mean, std, rounding

    def batch_key(self, item_id: str) -> tuple[tuple[int, int], ...]:
        """Return the sizes at all scales, rounded to whole patches: images of equal sizes can be batched together."""
        size = self.images.read_input_size(item_id)
        return tuple(round_size_to_patches(size, scale, self.cell, self.rounding) for scale in self.config.scales)

    def load(self, item_id: str) -> list[np.ndarray]:
        """Load the image's normalised views, one per scale."""
        self.check_tags(item_id)
        image = self.images.read_image(item_id)
        return build_patch_aligned_views(image, self.config.scales, self.cell, self.mean, self.std, self.rounding)


class _GradcamPart(_PatchPart):
    """A part of `cams gradcam`."""

    def __init__(self, worker: GradcamWorker, images: ImageSource | SingleImage) -> None:
        super().__init__(images, worker.config, worker.cell, worker.mean, worker.std)
        self.worker = worker

    def compute(self, loaded: Sequence[tuple[str, list[np.ndarray]]]) -> list[Item]:
        """Compute the CAMs of a batch of images with equal keys, one item per image."""
        worker, device = self.worker, self.worker.device
        with torch.autocast(device.type, DTYPES[self.config.precision], enabled=self.config.precision != "fp32"):
            cams = gradcam.compute_cams(
                worker.layer_maps, _stack_views(loaded, device), flip=self.config.flip,
                has_softmax=self.config.score == "softmax",
                choose_classes=lambda position, scores: self.choose_classes(loaded[position][0], scores))
        return [self.build_item(item_id, class_ids, cam, scores[class_ids.astype(int) - 1])
                for (item_id, _), (class_ids, cam, scores) in zip(loaded, cams, strict=True)]


class MctformerWorker:
    """Holds an MCTformer on its device."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config, self.device = work, work.config, select_device(work)
        net, self.description = load_net(work.named["net"])
        depth = net.backbone.depth
        if self.config.layers > depth:
            raise UsageError(f"--layers {self.config.layers} is more than the {depth} layers of the network",
                             f"Use --layers from 1 to {depth}")
        net.backbone.exact_positions = not self.config.as_released
        self.net = net.requires_grad_(False).to(self.device)

    def open(self, part: Part, source: Shard, index: Shard) -> _MctformerPart:
        """Open a part. Raises BadData if the network was trained for other classes."""
        check_same_classes((str(index.path), index.classes),
                           (str(self.work.named["net"]), tuple(self.description["classes"])))
        return self.open_images(ImageSource(index, self.work.root, max_side=self.config.max_side))

    def open_images(self, images: ImageSource | SingleImage) -> _MctformerPart:
        """Open images of the classes of the network."""
        return _MctformerPart(self, images)


class _MctformerPart(_PatchPart):
    """A part of `cams mctformer`."""

    def __init__(self, worker: MctformerWorker, images: ImageSource | SingleImage) -> None:
        description = worker.description
        super().__init__(images, worker.config, description["stride"], tuple(description["mean"]),
                         tuple(description["std"]), "none" if worker.config.as_released else "down")
        self.worker = worker

    def compute(self, loaded: Sequence[tuple[str, list[np.ndarray]]]) -> list[Item]:
        """Compute the CAMs of a batch of images with equal keys, one item per image."""
        device, precision = self.worker.device, self.config.precision
        with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
            cams = mctformer.compute_cams(
                self.worker.net, _stack_views(loaded, device), self.config,
                lambda position, scores: self.choose_classes(loaded[position][0], scores))
        return [self.build_item(item_id, class_ids, cam, scores[class_ids.astype(int) - 1])
                for (item_id, _), (class_ids, cam, scores) in zip(loaded, cams, strict=True)]


class ClipWorker:
    """Holds a frozen CLIP and the text features of the class prompts."""

    def __init__(self, work: MapWork) -> None:
        self.work = work
        self.config: ClipEsConfig = work.config
        self.device = select_device(work)
        source, words = work.shared["clip"], work.shared["words"]
        clip = load_clip(source, device=self.device, dtype=DTYPES[self.config.precision],
                         round_positions=self.config.as_released)
        # The text tower (250 MB of a ViT-B) is not needed any more once the words are encoded.
        self.vision, self.mean, self.std = clip.vision, clip.mean, clip.std
        templates, text = load_templates(self.config.template), clip.text
        classes = encode_classes(text, words.classes, templates, self.config.fuse)
        background = encode_words(text, words.background if self.config.background_words else (), templates)
        empty = classes.new_zeros(0, classes.shape[-1])
        self.text = clip_es.TextFeatures(classes, background if len(background) else empty, clip.logit_scale,
                                         compute_variant_weights(words.classes, self.config.fuse))

    def open(self, part: Part, source: Shard, index: Shard) -> _ClipPart:
        """Open a part."""
        return self.open_images(ImageSource(index, self.work.root, max_side=self.config.max_side))

    def open_images(self, images: ImageSource | SingleImage) -> _ClipPart:
        """Open images of the classes of the words."""
        return _ClipPart(self, images)


class _ClipPart(_PatchPart):
    """A part of `cams clip-es`."""

    def __init__(self, worker: ClipWorker, images: ImageSource | SingleImage) -> None:
        super().__init__(images, worker.config, worker.vision.cell, worker.mean, worker.std)
        self.worker = worker

    def compute(self, loaded: Sequence[tuple[str, list[np.ndarray]]]) -> list[Item]:
        """Compute the CAMs of a batch of images with equal keys, one item per image."""
        worker = self.worker
        threshold = worker.work.config_dict["box_threshold"]
        views = _stack_views(loaded, worker.device)
        cams = clip_es.compute_cams(worker.vision, views, worker.text, self.config, threshold,
                                    lambda position, scores: self.choose_classes(loaded[position][0], scores))
        with_raw = worker.work.companion is not None
        return [self.build_refined_item(item_id, maps, with_raw=with_raw)
                for (item_id, _), maps in zip(loaded, cams, strict=True)]


def _to_float16(maps: torch.Tensor) -> np.ndarray:
    return maps.float().cpu().numpy().astype(np.float16)


def _stack_views(loaded: Sequence[tuple[str, list[np.ndarray]]], device: torch.device) -> list[torch.Tensor]:
    """Stack the views of a batch. Return one tensor (B, 3, H, W) per scale."""
    return [torch.from_numpy(scale_views[0][None] if len(scale_views) == 1 else np.stack(scale_views)).to(device)
            for scale_views in zip(*(views for _, views in loaded), strict=True)]
