"""What the `refine` methods do in a worker process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from stages.data.augment import normalise
from stages.data.source import ImageSource
from stages.errors import BadData, UsageError
from stages.flow.background import resolve_background
from stages.flow.finite import check_finite
from stages.flow.maps import full_size, includes_background, on_cells
from stages.flow.parts import Part
from stages.flow.work import MapWork
from stages.kernels.background import Background, with_background
from stages.nets.files import load_net
from stages.nets.folding import fold_batch_norm
from stages.nets.precision import DTYPES
from stages.refine import irn, psa
from stages.refine.config import BACKGROUNDS, CrfConfig
from stages.refine.crf import refined
from stages.refine.pamr import refined_maps, stored
from stages.refine.psa import cells_of, padded
from stages.shards import Item, Shard


class _Part:
    """The maps and images of one part."""

    root_attrs: Mapping[str, Any]

    def __init__(self, source: Shard, images: ImageSource) -> None:
        self.source, self.images, self.classes = source, images, source.classes

    def key(self, item_id: str) -> Any:
        """Any images make a batch."""

    def load(self, item_id: str) -> tuple[Item, np.ndarray]:
        """Return the item's maps and its image. Raises BadData where they don't fit each other."""
        item, image = self.source.item(item_id), self.images.image(item_id)
        size = (item.attrs["height"], item.attrs["width"])
        if image.shape[:2] != size:
            raise BadData(f"the image is {image.shape[:2]}, its maps are for {size}", "make the maps again",
                          where=item_id)
        return item, image


class CrfWorker:
    """Holds the settings."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        self.background, _ = resolve_background(self.config.background or BACKGROUNDS[self.config.preset])

    def open(self, part: Part, source: Shard, index: Shard) -> _CrfPart:
        """Begin a part; UsageError when a background is given for maps that include one."""
        if includes_background(source) and self.config.background:
            raise UsageError(f"{source.path} includes the background, so --background has no meaning",
                             "leave --background out")
        competes = includes_background(source) or not source.classes[0]
        return _CrfPart(source, ImageSource(index, self.work.root), None if competes else self.background,
                        self.config)


class _CrfPart(_Part):
    """A part of `refine crf`."""

    def __init__(self, source: Shard, images: ImageSource, background: Background | None, config: CrfConfig) -> None:
        super().__init__(source, images)
        self.background, self.config, self.root_attrs = background, config, {"background": "included"}

    def compute(self, loaded: Sequence[tuple[str, tuple[Item, np.ndarray]]]) -> list[Item]:
        """Return the items of a batch."""
        return [self._item(item, image) for _, (item, image) in loaded]

    def _item(self, item: Item, image: np.ndarray) -> Item:
        rows, class_ids = full_size(item, len(self.classes) - 1)
        if not len(rows) and self.background is None:
            raise BadData("has no row to choose from", where=item.id)
        posteriors, ids = refined(image, rows, class_ids, self.background, self.config)
        attrs = {"height": image.shape[0], "width": image.shape[1], "covers": np.array(image.shape[:2])}
        return Item(item.id, {"class_ids": ids, "cam": posteriors}, attrs)


class _WalkWorker:
    """Holds a net of affinities on its device, and the settings."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        net, self.description = load_net(work.named["net"])
        self.device = torch.device(self.config.device if ":" in self.config.device else work.plain["device"])
        self.net = fold_batch_norm(net).to(self.device, memory_format=torch.channels_last)

    def seen(self, compute: Callable[[torch.Tensor], torch.Tensor], views: list[np.ndarray]) -> torch.Tensor:
        """Return what `compute` makes of normalised images, each (3, H, W), in the precision that is set."""
        images = torch.from_numpy(np.stack(views)).to(self.device, memory_format=torch.channels_last)
        precision = self.config.precision
        with torch.inference_mode(), torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32"):
            return compute(images).float()


class PsaWorker(_WalkWorker):
    """Makes PSA's walks. Any classes will do: the net knows none."""

    def __init__(self, work: MapWork) -> None:
        super().__init__(work)
        background = self.config.background
        self.background = None if background == "none" else resolve_background(background)[0]

    def open(self, part: Part, source: Shard, index: Shard) -> _PsaPart:
        """Begin a part."""
        return _PsaPart(self, source, ImageSource(index, self.work.root))


class IrnWorker(_WalkWorker):
    """Makes IRN's walks. Any classes will do: the net knows none."""

    def open(self, part: Part, source: Shard, index: Shard) -> _IrnPart:
        """Begin a part; BadData when the maps include a background."""
        if includes_background(source):
            raise BadData("its maps include a background, which does not walk to boundaries", "give a run of wsss cams",
                          where=str(source.path))
        return _IrnPart(self, source, ImageSource(index, self.work.root))


class _WalkPart(_Part):
    """A part of a method that walks on the grid of its net."""

    def __init__(self, worker: _WalkWorker, source: Shard, images: ImageSource, background: str) -> None:
        super().__init__(source, images)
        self.worker, self.config, self.root_attrs = worker, worker.config, {"background": background}

    def normalised(self, image: np.ndarray) -> np.ndarray:
        """Return an image (3, H, W) as the net wants it."""
        return normalise(image, self.worker.description["mean"], self.worker.description["std"])

    def made(self, item: Item, class_ids: np.ndarray, cam: np.ndarray) -> Item:
        """Return the item of maps (L, h, w) on the net's grid."""
        attrs = {**{name: item.attrs[name] for name in ("height", "width")},
                 "covers": np.array(cam.shape[1:]) * self.worker.net.stride}
        return Item(item.id, {"class_ids": class_ids, "cam": cam.astype(np.float16)}, attrs)


class _PsaPart(_WalkPart):
    """A part of `refine psa`."""

    def __init__(self, worker: PsaWorker, source: Shard, images: ImageSource) -> None:
        competes = includes_background(source) or not source.classes[0]
        self.background = None if competes else worker.background
        included = includes_background(source) or self.background is not None
        super().__init__(worker, source, images, "included" if included else "none")

    def key(self, item_id: str) -> tuple[int, int]:
        """Images of one padded size make a batch."""
        return cells_of(self.images.size(item_id), self.worker.net.stride)

    def compute(self, loaded: Sequence[tuple[str, tuple[Item, np.ndarray]]]) -> list[Item]:
        """Return the items of a batch."""
        cell = self.worker.net.stride
        views = [padded(self.normalised(image), cell) for _, (_, image) in loaded]
        features = self.worker.seen(self.worker.net, views)
        return [self._item(item, one) for (_, (item, _)), one in zip(loaded, features, strict=True)]

    def _item(self, item: Item, features: torch.Tensor) -> Item:
        rows, class_ids = full_size(item, len(self.classes) - 1)
        if self.background is not None:
            class_ids = np.concatenate([[0], class_ids]).astype(np.uint16)
        net, config = self.worker.net, self.config
        cam = psa.walked(features, rows, self.background, cell=net.stride, radius=net.radius, beta=config.beta,
                         steps=config.steps)
        return self.made(item, class_ids, cam)


class _IrnPart(_WalkPart):
    """A part of `refine irn`."""

    def __init__(self, worker: IrnWorker, source: Shard, images: ImageSource) -> None:
        super().__init__(worker, source, images, "none")

    def key(self, item_id: str) -> tuple[int, int]:
        """Images of one size make a batch: a mirror image must end where its image does."""
        return self.images.size(item_id)

    def compute(self, loaded: Sequence[tuple[str, tuple[Item, np.ndarray]]]) -> list[Item]:
        """Return the items of a batch."""
        boundaries = self.worker.seen(self._boundaries, [self.normalised(image) for _, (_, image) in loaded])
        return [self._item(item, one) for (_, (item, _)), one in zip(loaded, boundaries, strict=True)]

    def _boundaries(self, images: torch.Tensor) -> torch.Tensor:
        net = self.worker.net
        logits = net.boundaries(images).float()
        return irn.boundary_of(logits, net.boundaries(images.flip(-1)).float() if self.config.flip else logits.flip(-1))

    def _item(self, item: Item, boundary: torch.Tensor) -> Item:
        rows, class_ids = on_cells(item, self.worker.net.stride, len(self.classes) - 1)
        config = self.config
        cam = irn.walked(boundary, rows, radius=config.radius, beta=config.beta, steps=config.steps)
        return self.made(item, class_ids, cam)


class PamrWorker:
    """Holds the settings, and the device."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        self.device = torch.device(self.config.device if ":" in self.config.device else work.plain["device"])
        background = self.config.background
        self.background = None if background == "none" else resolve_background(background)[0]

    def open(self, part: Part, source: Shard, index: Shard) -> _PamrPart:
        """Begin a part; UsageError when a background is given for maps that include one."""
        if includes_background(source) and self.background:
            raise UsageError(f"{source.path} includes the background, so --background has no meaning",
                             "leave --background out")
        return _PamrPart(self, source, ImageSource(index, self.work.root))


class _PamrPart(_Part):
    """A part of `refine pamr`."""

    def __init__(self, worker: PamrWorker, source: Shard, images: ImageSource) -> None:
        super().__init__(source, images)
        self.worker, self.config = worker, worker.config
        self.background = worker.background if source.classes[0] else None
        included = includes_background(source) or self.background is not None
        self.root_attrs = {"background": "included" if included else "none"}

    def compute(self, loaded: Sequence[tuple[str, tuple[Item, np.ndarray]]]) -> list[Item]:
        """Return the items of a batch."""
        return [self._item(item, image) for _, (item, image) in loaded]

    def _item(self, item: Item, image: np.ndarray) -> Item:
        rows, class_ids = full_size(item, len(self.classes) - 1)
        if self.background is not None:
            rows = with_background(rows, self.background)
            class_ids = np.concatenate([[0], class_ids]).astype(np.uint16)
        cam, covers = refined_maps(torch.from_numpy(image).to(self.worker.device), torch.from_numpy(rows), self.config)
        check_finite(cam, "refined maps", item.id)  # 8-bit maps could not tell any more
        attrs = {"height": image.shape[0], "width": image.shape[1], "covers": np.array(covers)}
        return Item(item.id, {"class_ids": class_ids, "cam": stored(cam, self.config.grid_stride)}, attrs)
