"""Images with their masks: those of a masks run, or the ground truth of an index."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from stages.data.image_source import ImageSource
from stages.data.masks import get_ignore_index
from stages.errors import BadData, MissingInput
from stages.flow.execution import Inputs
from stages.flow.index_lookup import find_index
from stages.flow.item_arrays import extract_mask
from stages.shards import Run, Shard


class LabelledImages:
    """The images of a masks run that did not fail, or those of an index that have ground truth."""

    def __init__(self, inputs: Inputs, *, is_size_checked: bool = True) -> None:
        """Open the run. Raises MissingInput if an index has no ground truth.

        Without `is_size_checked`, masks are read even if the index they were made from no longer exists.
        """
        self._inputs, self._is_size_checked = inputs, is_size_checked
        self.run = Run(inputs.paths, ("masks", "index"))
        self.classes = self.run.classes
        self.num_classes = len(self.classes) - 1
        self.ignore_index = get_ignore_index(self.num_classes)
        self.num_failed = sum(len(shard.errors) for shard in self.run.shards)
        if self.run.kind == "index" and not self.ids:
            raise MissingInput("the index has no ground-truth masks to export", "Run `wsss index` again with --masks, "
                               "or give a masks run", where=str(self.run.first.path))

    @cached_property
    def ids(self) -> list[str]:
        """The ids of all images that have a mask, in order."""
        ids = [item_id for item_id in self.run.ids if item_id in self.run]
        return [item_id for item_id in ids if self.run.kind == "masks" or self.get_source(item_id).has_mask(item_id)]

    @property
    def num_without_mask(self) -> int:
        """The number of images that an index lists without ground truth."""
        return sum(len(shard.ids) for shard in self.run.shards) - self.num_failed - len(self.ids)

    @cached_property
    def _sources(self) -> dict[Path, ImageSource]:
        paths = dict.fromkeys(self._index_paths.values())
        return {path: ImageSource(Shard(path, "index"), self._inputs.root) for path in paths}

    @cached_property
    def _index_paths(self) -> dict[Path, Path]:
        return {shard.path: find_index(shard, self._inputs.index) for shard in self.run.shards}

    @property
    def sources(self) -> Iterator[ImageSource]:
        """The indexes of the images."""
        return iter(self._sources.values())

    def get_source(self, item_id: str) -> ImageSource:
        """Return the index that lists an image. Raises MissingInput or BadData if it does not fit the masks."""
        shard_path = self.run.shard_by_id[item_id].path
        return self._sources[self._index_paths[shard_path]]

    def read_size(self, item_id: str) -> tuple[int, int]:
        """Return (H, W) of an image."""
        return self.get_source(item_id).read_size(item_id)

    def read_mask(self, item_id: str) -> np.ndarray:
        """Return a mask (H, W): class ids 0..C and `ignore_index`. Raises BadData if it has not the image's size.

        If the data set has no background (class 0 has an empty name), there is no 0.
        """
        if self.run.kind == "index":
            return self.get_source(item_id).read_mask(item_id)
        mask = extract_mask(self.run.item(item_id, exclude=("confidence",)), self.num_classes)
        size = self.read_size(item_id) if self._is_size_checked else mask.shape
        if mask.shape != size:
            raise BadData(f"the mask has {mask.shape[0]}x{mask.shape[1]} pixels (height x width), but the image has "
                          f"{size[0]}x{size[1]}", "Make the masks at the size of the images", where=item_id)
        return mask if self.classes[0] else np.where(mask == 0, mask.dtype.type(self.ignore_index), mask)
