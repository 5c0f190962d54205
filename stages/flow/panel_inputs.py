"""Reads what a panel shows of a run, at the size of the panel: CAMs with their scores, masks, and regions.

Photographs may have 50 megapixels and panels a few hundred pixels, so nothing is computed at the photograph's size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from stages.data.image_size import resize_labels
from stages.data.masks import get_ignore_index
from stages.errors import BadData
from stages.flow.item_arrays import extract_mask, extract_regions, includes_background, resize_to_image
from stages.kernels.background import Background, cams_to_mask, scores_to_mask
from stages.shards import Item, Run

Size = tuple[int, int]


class ClassMaps(NamedTuple):
    """The maps (K, h, w) float32 in [0, 1] of the classes `class_ids` (K,), and their `scores` (K,), if known."""

    maps: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray | None

    def select(self, class_ids: tuple[int, ...]) -> ClassMaps:
        """Return the rows of some classes."""
        rows = np.flatnonzero(np.isin(self.class_ids, class_ids))
        return ClassMaps(self.maps[rows], self.class_ids[rows], None if self.scores is None else self.scores[rows])


class RunReader:
    """Reads the CAMs, masks or regions of a run at the size of a panel."""

    def __init__(self, run: Run, background: Background | None = None) -> None:
        """Read `run`, a run of cams, masks or regions; `background` is the rule by which CAMs become masks."""
        self.run, self.background = run, background
        self.kind, self.classes, self.path = run.kind, run.classes, str(run.first.path)
        self.includes_background = run.kind == "cams" and includes_background(run.first)
        self.can_read_masks = run.kind == "masks" or self.includes_background or (
            run.kind == "cams" and background is not None)

    def find_problem(self, item_id: str) -> str:
        """Return why the run has nothing of an image; empty if it has."""
        if item_id not in self.run.shard_by_id:
            return "not in this run"
        error = self.run.shard_by_id[item_id].errors.get(item_id)
        return "" if error is None else f"failed: {error}"

    def read_scores(self, item_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the class ids (K,) of the CAMs of an image, and their scores (K,), None if unknown."""
        shard = self.run.shard_by_id[item_id]
        class_ids = shard.read_item_dataset(item_id, "class_ids")
        return class_ids, self._check_scores(item_id, shard.read_item_dataset(item_id, "scores"), class_ids)

    def read_maps(self, item_id: str, size: Size) -> ClassMaps:
        """Return the CAMs of an image at `size` (height, width). Raises BadData for CAMs that are not valid."""
        item = self.run.item(item_id)
        maps, class_ids = resize_to_image(_scale_item(item, size), len(self.classes) - 1)
        return ClassMaps(maps, class_ids, self._check_scores(item_id, item.datasets.get("scores"), class_ids))

    def read_mask(self, item_id: str, size: Size) -> np.ndarray:
        """Return the mask (h, w) of an image at `size`, also of CAMs. Raises BadData for contents that are not valid.

        Raises ValueError for CAMs unless `can_read_masks`.
        """
        num_classes = len(self.classes) - 1
        if self.kind == "masks":
            return resize_labels(extract_mask(self.run.item(item_id), num_classes), size)
        maps, class_ids, _ = self.read_maps(item_id, size)
        ignore = get_ignore_index(num_classes)
        if self.includes_background:
            mask = scores_to_mask(maps, class_ids) if len(maps) else np.zeros(size, np.int64)
        elif self.background is not None:
            mask = cams_to_mask(maps, class_ids, self.background, ignore)
        else:
            raise ValueError("CAMs without a background need a rule to become a mask")
        return mask.astype(np.uint16 if ignore > np.iinfo(np.uint8).max else np.uint8)

    def read_regions(self, item_id: str) -> np.ndarray:
        """Return the labels (H, W) of the regions of an image at its own size, 0 for none. Raises BadData."""
        return extract_regions(self.run.item(item_id))

    def _check_scores(self, item_id: str, scores: np.ndarray | None, class_ids: np.ndarray) -> np.ndarray | None:
        if scores is not None and len(scores) != len(class_ids):
            raise BadData(f"there are {len(scores)} scores for {len(class_ids)} CAMs", "Make the CAMs again",
                          where=f"{self.path}: item {item_id}")
        return scores


def _scale_item(item: Item, size: Size) -> Item:
    """Return a `cams` item as if its image had `size`; maps of many more cells than that are thinned out."""
    cam, covers = item.datasets["cam"], np.asarray(item.attrs["covers"], dtype=np.float64)
    image_size = np.array((item.attrs["height"], item.attrs["width"]), dtype=np.float64)
    step = max(1, int(min(np.array(cam.shape[1:]) / (2 * np.array(size)))))
    if step > 1:
        whole = [length // step * step for length in cam.shape[1:]]
        covers = covers * whole / cam.shape[1:]
        cam = cam[:, step // 2:whole[0]:step, step // 2:whole[1]:step]
    scaled = np.maximum(1, np.rint(covers * size / image_size)).astype(int)
    return replace(item, datasets={**item.datasets, "cam": cam},
                   attrs={**item.attrs, "height": size[0], "width": size[1], "covers": scaled})
