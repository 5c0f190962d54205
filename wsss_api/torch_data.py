"""The images of an index with their masks and tags as a data set of torch, for other training code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from stages.data.image_size import resize_labels
from stages.data.image_source import ImageSource
from stages.errors import BadData, MissingInput, UsageError
from stages.flow.index_lookup import check_same_images
from stages.flow.item_arrays import extract_mask
from stages.shards import Run, check_same_classes
from wsss_api.runs import list_paths

Sample = dict[str, Any]
Transform = Callable[[Sample], Any]


class TorchDataset(Dataset[Any]):
    """Images as dictionaries of tensors; see `wsss.torch_dataset`. It can be pickled, so workers may be spawned."""

    def __init__(self, index: Any, masks: Any = None, *, truth: bool = False, captions: bool = False,
                 transform: Transform | None = None, max_side: int = 1024,
                 root: str | os.PathLike[str] | None = None) -> None:
        """Use `torch_dataset`, which documents the arguments."""
        if masks is not None and truth:
            raise UsageError("masks and truth=True both choose the masks", "Pass one of them")
        if max_side < 0:
            raise UsageError(f"max_side={max_side} is out of range", "Use 0, or a positive number of pixels")
        self._index = Run(list_paths(index), "index")
        self._masks = None if masks is None else Run(list_paths(masks), "masks")
        if self._masks is not None:
            check_same_classes((str(self._index.first.path), self._index.classes),
                               (str(self._masks.first.path), self._masks.classes))
            check_same_images(self._index, self._masks)
        self._truth, self._captions, self.transform = truth, captions, transform
        folder = None if root is None else os.fspath(root)
        self._sources = [ImageSource(shard, folder, max_side=max_side) for shard in self._index.shards]
        self._source_by_id = {item_id: number for number, shard in enumerate(self._index.shards)
                              for item_id in shard.ids if item_id not in shard.errors}
        self.ids = tuple(item_id for item_id in self._source_by_id if self._has_mask(item_id))
        if not self.ids:
            raise MissingInput("no image of the index has a mask", "Pass other masks, or leave out masks and truth",
                               where=str(self._index.first.path))

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names by id; the first is the background."""
        return self._index.classes

    @property
    def ignore_index(self) -> int:
        """The value of unknown pixels in masks: 255, or 65535 with more than 254 classes."""
        return 255 if len(self.classes) <= 255 else 65535

    @property
    def errors(self) -> dict[str, str]:
        """The images that the index rejected and why; they are not part of the data set."""
        return {item_id: reason for shard in self._index.shards for item_id, reason in shard.errors.items()}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> Any:
        """Return the sample at a position. Raises IndexError, BadData for a file that has changed or disappeared."""
        item_id = self.ids[position]
        source = self._sources[self._source_by_id[item_id]]
        image = source.read_image(item_id)
        sample: Sample = {"id": item_id, "image": torch.from_numpy(image).permute(2, 0, 1).contiguous()}
        if self._masks is not None or self._truth:
            mask = self._read_mask(item_id, source, (image.shape[0], image.shape[1]))
            sample["mask"] = torch.from_numpy(mask.astype(np.int64))
        sample["labels"] = self._build_labels(source.read_labels(item_id))
        if self._captions:
            captions = source.read_entry(item_id).datasets.get("captions")
            sample["captions"] = [] if captions is None else [caption.decode() for caption in captions.tolist()]
        return sample if self.transform is None else self.transform(_wrap_for_transforms(sample))

    def _has_mask(self, item_id: str) -> bool:
        if self._masks is not None:
            return item_id in self._masks
        return not self._truth or self._sources[self._source_by_id[item_id]].has_mask(item_id)

    def _read_mask(self, item_id: str, source: ImageSource, size: tuple[int, int]) -> np.ndarray:
        """Return the mask (H', W') of the image reduced to `size`. Raises BadData for a mask of another image size."""
        if self._masks is None:
            return resize_labels(source.read_mask(item_id), size)
        mask = extract_mask(self._masks.item(item_id, exclude=("confidence",)), len(self.classes) - 1)
        if mask.shape != source.read_size(item_id):
            raise BadData(f"the mask has the size {mask.shape}, but the image {source.read_size(item_id)}",
                          "Make the masks again from the images of this index", where=item_id)
        return resize_labels(mask, size)

    def _build_labels(self, labels: tuple[int, ...] | None) -> torch.Tensor:
        """Return the tags as (C,) float32, 1 for the classes in the image; NaN if they are unknown."""
        if labels is None:
            return torch.full((len(self.classes) - 1,), torch.nan)
        multi_hot = torch.zeros(len(self.classes) - 1)
        multi_hot[[class_id - 1 for class_id in labels]] = 1
        return multi_hot


def _wrap_for_transforms(sample: Mapping[str, Any]) -> Sample:
    """Mark image and mask for torchvision.transforms.v2, which then moves both alike and never blends class ids."""
    from torchvision import tv_tensors
    wrapped: Sample = {**sample, "image": tv_tensors.Image(sample["image"])}
    if "mask" in sample:
        wrapped["mask"] = tv_tensors.Mask(sample["mask"])
    return wrapped
