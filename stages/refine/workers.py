"""Workers of the `refine` methods: each process refines the CAMs of the images of a part."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stages.data.augment import normalise
from stages.data.image_size import scale_covers
from stages.data.image_source import ImageSource
from stages.errors import BadData, UsageError
from stages.flow.background import resolve_background
from stages.flow.finite import check_finite
from stages.flow.item_arrays import includes_background, resample_to_cells, resize_to_input
from stages.flow.map_work import MapWork
from stages.flow.parts import Part
from stages.kernels.background import Background, add_background_scores
from stages.nets.batch_norm_folding import fold_batch_norm
from stages.nets.net_files import load_net
from stages.nets.precision import DTYPES
from stages.refine import irn, psa
from stages.refine.config import DEFAULT_BACKGROUNDS
from stages.refine.crf import refine_batch_with_crf
from stages.refine.pamr import encode_maps, refine_by_colours
from stages.refine.psa import count_cells, pad_to_cells
from stages.shards import Item, Shard


class _RefinePart:
    """The CAMs and images of one part."""

    root_attrs: Mapping[str, Any]

    def __init__(self, source: Shard, images: ImageSource) -> None:
        self.source, self.images, self.classes = source, images, source.classes

    def batch_key(self, item_id: str) -> Any:
        """Return None: images of any size can be batched together."""

    def count_pixels(self, item_id: str) -> int:
        """Return the number of pixels at which the image is computed."""
        return math.prod(self.images.read_input_size(item_id))

    def load(self, item_id: str) -> tuple[Item, np.ndarray]:
        """Load the item with its CAMs and its image. Raises BadData if their sizes differ."""
        item, image = self.source.item(item_id), self.images.read_image(item_id)
        size, image_size = (item.attrs["height"], item.attrs["width"]), self.images.read_size(item_id)
        if image_size != size:
            raise BadData(f"the image is {image_size[1]} x {image_size[0]} pixels but its CAMs are for {size[1]} x "
                          f"{size[0]}", "Re-run `wsss cams` on the current images", where=item_id)
        return item, image

    def read_maps(self, item: Item, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the CAMs (L, H', W') float32 in [0, 1] at the size of the loaded image, and their class ids (L,)."""
        return resize_to_input(item, (image.shape[0], image.shape[1]), len(self.classes) - 1)


def _check_no_background(source: Shard) -> None:
    """Raise UsageError if the CAMs include a background, which `--background` would add again."""
    if includes_background(source):
        raise UsageError("the CAMs already include a background, so --background can't be applied",
                         "Leave out --background", where=str(source.path))


class CrfWorker:
    """Holds the settings, the engine and its device, and the background rule."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config, self.engine = work, work.config, work.config_dict["engine"]
        self.device = self.config.device if ":" in self.config.device else work.config_dict.get("device", "cpu")
        self.background, _ = resolve_background(self.config.background or DEFAULT_BACKGROUNDS[self.config.preset])

    def open(self, part: Part, source: Shard, index: Shard) -> _CrfPart:
        """Open a part. Raises UsageError if `--background` is set but the CAMs already include a background."""
        if self.config.background:
            _check_no_background(source)
        has_direct_scores = includes_background(source) or not source.classes[0]
        images = ImageSource(index, self.work.root, max_side=self.config.max_side)
        return _CrfPart(self, source, images, None if has_direct_scores else self.background)


class _CrfPart(_RefinePart):
    """A part of `refine crf`."""

    def __init__(self, worker: CrfWorker, source: Shard, images: ImageSource, background: Background | None) -> None:
        super().__init__(source, images)
        self.worker, self.background, self.root_attrs = worker, background, {"background": "included"}

    def compute(self, loaded: Sequence[tuple[str, tuple[Item, np.ndarray]]]) -> list[Item]:
        """Compute the refined CAMs of a batch of images with equal keys, one item per image."""
        worker = self.worker
        maps = [self._read_competing_maps(item, image) for _, (item, image) in loaded]
        refined = refine_batch_with_crf([image for _, (_, image) in loaded], maps, self.background, worker.config,
                                        worker.engine, worker.device)
        return [self._build_item(item, *result) for (_, (item, _)), result in zip(loaded, refined, strict=True)]

    def _read_competing_maps(self, item: Item, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        scores, class_ids = self.read_maps(item, image)
        if not len(scores) and self.background is None:
            raise BadData("the image has no CAM to choose from", where=item.id)
        return scores, class_ids

    def _build_item(self, item: Item, posteriors: np.ndarray, class_ids: np.ndarray) -> Item:
        height, width = item.attrs["height"], item.attrs["width"]
        attrs = {"height": height, "width": width, "covers": np.array((height, width))}
        return Item(item.id, {"class_ids": class_ids, "cam": posteriors}, attrs)


class _WalkWorker:
    """Holds an affinity network on its device, and the settings."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        net, self.description = load_net(work.named["net"])
        self.device = torch.device(self.config.device if ":" in self.config.device else work.config_dict["device"])
        self.net = fold_batch_norm(net).to(self.device, memory_format=torch.channels_last)

    def run_network(self, compute: Callable[[torch.Tensor], torch.Tensor], views: list[np.ndarray]) -> torch.Tensor:
        """Apply `compute` to a batch of normalised images, each (3, H, W), in the configured precision."""
        images = torch.from_numpy(np.stack(views)).to(self.device, memory_format=torch.channels_last)
        precision = self.config.precision
        with torch.inference_mode(), torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32"):
            return compute(images).float()


class PsaWorker(_WalkWorker):
    """Refines by PSA's random walk. The network does not depend on the classes, so these are not checked."""

    def __init__(self, work: MapWork) -> None:
        super().__init__(work)
        background = self.config.background
        self.background = None if background == "none" else resolve_background(background)[0]

    def open(self, part: Part, source: Shard, index: Shard) -> _PsaPart:
        """Open a part."""
        return _PsaPart(self, source, ImageSource(index, self.work.root, max_side=self.config.max_side))


class IrnWorker(_WalkWorker):
    """Refines by IRN's random walk. The network does not depend on the classes, so these are not checked."""

    def open(self, part: Part, source: Shard, index: Shard) -> _IrnPart:
        """Open a part. Raises BadData if the CAMs include a background."""
        if includes_background(source):
            raise BadData("the CAMs include a background, which IRN's random walk does not support",
                          "Pass a run of `wsss cams` that was not refined with a background", where=str(source.path))
        return _IrnPart(self, source, ImageSource(index, self.work.root, max_side=self.config.max_side))


class _WalkPart(_RefinePart):
    """A part of a method whose random walk runs on the grid of its network."""

    def __init__(self, worker: _WalkWorker, source: Shard, images: ImageSource, background: str) -> None:
        super().__init__(source, images)
        self.worker, self.config, self.root_attrs = worker, worker.config, {"background": background}

    def normalise_image(self, image: np.ndarray) -> np.ndarray:
        """Return an image (H, W, 3) as the network's normalised input (3, H, W)."""
        return normalise(image, self.worker.description["mean"], self.worker.description["std"])

    def build_item(self, item: Item, class_ids: np.ndarray, cam: np.ndarray) -> Item:
        """Build the item of refined CAMs (L, h, w) on the network's grid."""
        height, width = item.attrs["height"], item.attrs["width"]
        covers = scale_covers((cam.shape[1] * self.worker.net.stride, cam.shape[2] * self.worker.net.stride),
                              self.images.read_input_size(item.id), (height, width))
        attrs = {"height": height, "width": width, "covers": np.array(covers)}
        return Item(item.id, {"class_ids": class_ids, "cam": cam.astype(np.float16)}, attrs)


class _PsaPart(_WalkPart):
    """A part of `refine psa`."""

    def __init__(self, worker: PsaWorker, source: Shard, images: ImageSource) -> None:
        has_direct_scores = includes_background(source) or not source.classes[0]
        self.background = None if has_direct_scores else worker.background
        included = includes_background(source) or self.background is not None
        super().__init__(worker, source, images, "included" if included else "none")

    def batch_key(self, item_id: str) -> tuple[int, int]:
        """Return the padded size in cells: images of equal padded size can be batched together."""
        return count_cells(self.images.read_input_size(item_id), self.worker.net.stride)

    def compute(self, loaded: Sequence[tuple[str, tuple[Item, np.ndarray]]]) -> list[Item]:
        """Compute the refined CAMs of a batch of images with equal keys, one item per image."""
        cell = self.worker.net.stride
        views = [pad_to_cells(self.normalise_image(image), cell) for _, (_, image) in loaded]
        features = self.worker.run_network(self.worker.net, views)
        return [self._build_item(item, image, image_features)
                for (_, (item, image)), image_features in zip(loaded, features, strict=True)]

    def _build_item(self, item: Item, image: np.ndarray, features: torch.Tensor) -> Item:
        scores, class_ids = self.read_maps(item, image)
        if self.background is not None:
            class_ids = np.concatenate([[0], class_ids]).astype(np.uint16)
        net, config = self.worker.net, self.config
        cam = psa.walk_maps(features, scores, self.background, cell=net.stride, radius=net.radius, beta=config.beta,
                            steps=config.steps)
        return self.build_item(item, class_ids, cam)


class _IrnPart(_WalkPart):
    """A part of `refine irn`."""

    def __init__(self, worker: IrnWorker, source: Shard, images: ImageSource) -> None:
        super().__init__(worker, source, images, "none")

    def batch_key(self, item_id: str) -> tuple[int, int]:
        """Return the image size: without padding, the mirrored image has the same cells as the image."""
        return self.images.read_input_size(item_id)

    def compute(self, loaded: Sequence[tuple[str, tuple[Item, np.ndarray]]]) -> list[Item]:
        """Compute the refined CAMs of a batch of images with equal keys, one item per image."""
        views = [self.normalise_image(image) for _, (_, image) in loaded]
        boundaries = self.worker.run_network(self._compute_boundaries, views)
        return [self._build_item(item, boundary) for (_, (item, _)), boundary in zip(loaded, boundaries, strict=True)]

    def _compute_boundaries(self, images: torch.Tensor) -> torch.Tensor:
        net = self.worker.net
        logits = net.forward_boundaries(images).float()
        mirrored = net.forward_boundaries(images.flip(-1)).float() if self.config.flip else logits.flip(-1)
        return irn.compute_boundary(logits, mirrored)

    def _build_item(self, item: Item, boundary: torch.Tensor) -> Item:
        scores, class_ids = resample_to_cells(item, self.worker.net.stride, len(self.classes) - 1,
                                              self.images.read_input_size(item.id))
        config = self.config
        cam = irn.walk_maps(boundary, scores, radius=config.radius, beta=config.beta, steps=config.steps)
        return self.build_item(item, class_ids, cam)


class ColourWorker:
    """Refines by PAMR or PAR. Holds the settings, the device and the background rule."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        self.device = torch.device(self.config.device if ":" in self.config.device else work.config_dict["device"])
        background = self.config.background
        self.background = None if background == "none" else resolve_background(background)[0]

    def open(self, part: Part, source: Shard, index: Shard) -> _ColourPart:
        """Open a part. Raises UsageError if `--background` is set but the CAMs already include a background."""
        if self.background:
            _check_no_background(source)
        return _ColourPart(self, source, ImageSource(index, self.work.root, max_side=self.config.max_side))


class _ColourPart(_RefinePart):
    """A part of `refine pamr` or `refine par`."""

    def __init__(self, worker: ColourWorker, source: Shard, images: ImageSource) -> None:
        super().__init__(source, images)
        self.worker, self.config = worker, worker.config
        self.background = worker.background if source.classes[0] else None
        included = includes_background(source) or self.background is not None
        self.root_attrs = {"background": "included" if included else "none"}

    def compute(self, loaded: Sequence[tuple[str, tuple[Item, np.ndarray]]]) -> list[Item]:
        """Compute the refined CAMs of a batch of images with equal keys, one item per image."""
        return [self._build_item(item, image) for _, (item, image) in loaded]

    def _build_item(self, item: Item, image: np.ndarray) -> Item:
        scores, class_ids = self.read_maps(item, image)
        if self.background is not None:
            scores = add_background_scores(scores, self.background)
            class_ids = np.concatenate([[0], class_ids]).astype(np.uint16)
        image_tensor = torch.from_numpy(image).to(self.worker.device)
        cam, covers = refine_by_colours(image_tensor, torch.from_numpy(scores), self.config)
        check_finite(cam, "refined CAMs", item.id)  # NaN would be lost in 8-bit maps
        size = (item.attrs["height"], item.attrs["width"])
        covers = scale_covers(covers, (image.shape[0], image.shape[1]), size)
        attrs = {"height": size[0], "width": size[1], "covers": np.array(covers)}
        return Item(item.id, {"class_ids": class_ids, "cam": encode_maps(cam, self.config.grid_stride)}, attrs)
