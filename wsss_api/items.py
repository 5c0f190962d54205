"""What runs hold for one image, as small frozen dataclasses with numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from stages.errors import UsageError
from stages.flow.background import resolve_background
from stages.flow.item_arrays import resize_to_image
from stages.pseudo.config import DEFAULT_BACKGROUND
from stages.pseudo.masks import build_pseudo_mask
from stages.shards import Item


@dataclass(frozen=True, eq=False)
class IndexItem:
    """An image of an index. What the index does not know is None; `labels` () means that no class is in the image.

    `size` is (H, W), `labels` are class ids and `tags` their names; `path` and `mask_path` are below `Run.root`. With
    `has_mask`, `Run.read_truth` returns the ground truth; without a `mask_path` it was drawn from outlines.
    """

    id: str
    path: str
    size: tuple[int, int] | None
    labels: tuple[int, ...] | None
    tags: tuple[str, ...] | None
    captions: tuple[str, ...]
    mask_path: str | None
    has_mask: bool


@dataclass(frozen=True, eq=False)
class CamItem:
    """The CAMs of an image: `cam` (K, h, w) as stored, float16 or uint8, one row per id in `class_ids` (K,).

    `size` is (H, W) of the image and `covers` the pixels over which the CAMs are stretched. `scores` (K,) are those of
    the network, or None. With `has_background`, one of the rows is class 0. `classes` are the names by class id.
    """

    id: str
    size: tuple[int, int]
    cam: np.ndarray = field(repr=False)
    class_ids: np.ndarray
    class_names: tuple[str, ...]
    scores: np.ndarray | None
    covers: tuple[int, int]
    has_background: bool
    classes: tuple[str, ...] = field(repr=False)

    def resize_to_image(self) -> np.ndarray:
        """Return the CAMs at the size of the image: (K, H, W) float32 in [0, 1]."""
        attrs = {"height": self.size[0], "width": self.size[1], "covers": np.array(self.covers)}
        item = Item(self.id, {"cam": self.cam, "class_ids": self.class_ids}, attrs)
        return resize_to_image(item, len(self.classes) - 1)[0]

    def to_mask(self, background: str = "", min_confidence: float = 0.0) -> np.ndarray:
        """Return the mask (H, W) of class ids that `wsss pseudo` makes with these settings; ignored pixels are 255.

        Raises UsageError for an invalid `background`, such as one for CAMs that have a background.
        """
        if self.has_background and background:
            raise UsageError("the CAMs already include a background, so `background` can't be applied",
                             "Leave out `background`", where=self.id)
        rule = None if self.has_background else resolve_background(background or DEFAULT_BACKGROUND)[0]
        mask, _ = build_pseudo_mask(self.resize_to_image(), self.class_ids, rule, num_classes=len(self.classes) - 1,
                                    min_confidence=min_confidence)
        if not self.classes[0]:  # a data set without a background class
            mask[mask == 0] = np.iinfo(mask.dtype).max
        return mask


@dataclass(frozen=True, eq=False)
class MaskItem:
    """The mask of an image: `mask` (H, W) of class ids, 255 (65535 in 16 bits) where it is unknown.

    `confidence` (H, W) uint8 is 255 where the mask is certain, or None. `classes` are the names by class id.
    """

    id: str
    size: tuple[int, int]
    mask: np.ndarray = field(repr=False)
    confidence: np.ndarray | None = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)

    @property
    def ignore_index(self) -> int:
        """The value of unknown pixels."""
        return int(np.iinfo(self.mask.dtype).max)

    @property
    def class_ids(self) -> tuple[int, ...]:
        """The ids of the classes in the mask, without background and unknown pixels."""
        return tuple(value for value in np.unique(self.mask).tolist() if value not in (0, self.ignore_index))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the mask."""
        return tuple(self.classes[class_id] for class_id in self.class_ids)


@dataclass(frozen=True, eq=False)
class FeatureItem:
    """The feature vector of an image, (D,) float32, and its labels (C+1,) uint8: 1 if the image has the class."""

    id: str
    features: np.ndarray = field(repr=False)
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class ClusterItem:
    """The sub-category of an image in each class, (C+1,) int32: -1 if the image does not have the class."""

    id: str
    assignment: np.ndarray


@dataclass(frozen=True, eq=False)
class RegionItem:
    """The regions of an image: `labels` (H, W) int32, the number of the region of each pixel, 0 where there is none."""

    id: str
    size: tuple[int, int]
    labels: np.ndarray = field(repr=False)

    @property
    def region_ids(self) -> tuple[int, ...]:
        """The numbers of the regions, in ascending order and without 0."""
        return tuple(value for value in np.unique(self.labels).tolist() if value)


AnyItem = IndexItem | CamItem | MaskItem | FeatureItem | ClusterItem | RegionItem


def build_index_item(item: Item, classes: tuple[str, ...]) -> IndexItem:
    """Build an item of an index."""
    labels = item.datasets.get("labels")
    ids = None if labels is None else tuple(labels.tolist())
    captions = item.datasets.get("captions")
    size = (item.attrs["height"], item.attrs["width"]) if "height" in item.attrs else None
    return IndexItem(item.id, str(item.attrs["path"]), size, ids,
                     None if ids is None else tuple(classes[class_id] for class_id in ids),
                     () if captions is None else tuple(caption.decode() for caption in captions.tolist()),
                     item.attrs.get("mask_path"), "mask_path" in item.attrs or "mask_crc32" in item.attrs)


def build_cam_item(item: Item, classes: tuple[str, ...], *, has_background: bool) -> CamItem:
    """Build an item of CAMs."""
    attrs, class_ids = item.attrs, item.datasets["class_ids"]
    covers = (int(attrs["covers"][0]), int(attrs["covers"][1]))
    return CamItem(item.id, (int(attrs["height"]), int(attrs["width"])), item.datasets["cam"], class_ids,
                   tuple(classes[class_id] for class_id in class_ids.tolist()), item.datasets.get("scores"), covers,
                   has_background, classes)


def build_mask_item(item: Item, classes: tuple[str, ...]) -> MaskItem:
    """Build an item of masks."""
    mask = item.datasets["mask"]
    return MaskItem(item.id, (mask.shape[0], mask.shape[1]), mask, item.datasets.get("confidence"), classes)


def build_region_item(item: Item) -> RegionItem:
    """Build an item of regions."""
    labels = item.datasets["labels"]
    return RegionItem(item.id, (labels.shape[0], labels.shape[1]), labels)
