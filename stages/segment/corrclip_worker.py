"""The worker of `segment corrclip`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.data.image_size import resize_labels
from stages.data.image_source import ImageSource
from stages.data.single_image import SingleImage
from stages.flow.map_work import MapWork
from stages.flow.parts import Part
from stages.flow.region_source import RegionSource
from stages.kernels.region_vote import vote_in_regions
from stages.kernels.sliding_windows import SlidingWindows
from stages.nets.clip_vision import VisionTower
from stages.nets.self_similarity import load_self_similarity
from stages.segment.config import CorrclipConfig
from stages.segment.corrclip import embed_window, resize_ids
from stages.segment.dense_text import Embed, choose_grid, score_image
from stages.segment.workers import TextPart, TextWorker
from stages.shards import Item, Shard

_RELEASED_CELL, _RELEASED_PAD = 56, 10_000
_NO_REGION = 0


class CorrclipWorker(TextWorker):
    """Compares images with words; patches attend within the regions of a run, if there is one."""

    config: CorrclipConfig

    def __init__(self, work: MapWork) -> None:
        super().__init__(work)
        regions = work.named.get("regions")
        self.regions = None if regions is None else RegionSource(regions)

    def _build_embed(self, tower: VisionTower) -> Embed:
        """Keep the networks; what they compute needs the regions of an image."""
        self.tower = tower
        self.network = load_self_similarity(self.work.shared["proxy"], self.device, self.mean, self.std)
        # As released, windows are padded to 56 pixels, of which CLIP drops what is no whole patch.
        self.cell = _RELEASED_CELL if self.config.as_released else math.lcm(tower.cell, self.network.cell)
        return _refuse_to_embed

    def open(self, part: Part, source: Shard, index: Shard) -> _CorrclipPart:
        """Open a part. Raises BadData for regions of other images."""
        if self.regions is not None:
            self.regions.check_images(index)
        return _CorrclipPart(self, ImageSource(index, self.work.root, max_side=self.config.max_side))


def _refuse_to_embed(windows: Tensor) -> Tensor:
    raise NotImplementedError


class _CorrclipPart(TextPart):
    """A part of images with regions."""

    def __init__(self, worker: CorrclipWorker, images: ImageSource | SingleImage) -> None:
        super().__init__(worker, images)
        self.corrclip = worker

    def load(self, item_id: str) -> Any:
        """Return the image, its view (3, H', W'), and its regions (H, W); all of them 0 without a run of regions."""
        image, view = super().load(item_id)
        source, size = self.corrclip.regions, self.images.read_input_size(item_id)
        regions = (np.full(size, _NO_REGION, np.int32) if source is None
                   else source.read(item_id, self.images.read_size(item_id), size))
        return image, view, regions

    def compute(self, loaded: Sequence[tuple[str, Any]]) -> list[Item]:
        """Return the masks of a batch."""
        return [self._segment(item_id, *arrays) for item_id, arrays in loaded]

    def _segment(self, item_id: str, image: np.ndarray, view: np.ndarray, regions: np.ndarray) -> Item:
        worker, config = self.corrclip, self.corrclip.config
        size = (view.shape[1], view.shape[2])
        windows = SlidingWindows(size, config.window, config.stride, worker.cell)
        ids = torch.from_numpy(resize_ids(regions, size).astype(np.int64))[None]
        pad_id = _RELEASED_PAD if config.as_released else _NO_REGION
        # The windows are padded with zeros.
        crops = iter((windows.crop(ids - pad_id) + pad_id)[:, 0].numpy())

        def embed(batch: Tensor) -> Tensor:
            return torch.stack([embed_window(worker.tower, worker.network, window, next(crops), config)
                                for window in batch])

        colours = torch.from_numpy(image).permute(2, 0, 1).to(worker.device, torch.float32)
        scores = score_image(embed, torch.from_numpy(view).to(worker.device), colours, windows, self.text,
                             choose_grid(image.shape[:2], config.grid_stride), config)
        item = self.build_items([item_id], [scores.cpu().numpy().astype(np.float16)], [None])[0]
        return self._correct(item, regions) if config.vote and worker.regions is not None else item

    def _correct(self, item: Item, regions: np.ndarray) -> Item:
        """Return the item whose mask has one class in each region."""
        mask = item.datasets["mask"]
        full = resize_labels(regions, mask.shape)
        skip = int(full.min()) if self.corrclip.config.as_released else _NO_REGION
        return Item(item.id, {**item.datasets, "mask": vote_in_regions(mask, full, skip=skip)}, item.attrs)
