"""What `train-aff` makes of every image before the training, in worker processes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from stages.data.source import sources_of
from stages.errors import BadData
from stages.flow.maps import full_size
from stages.shards import Item, Run
from stages.train_aff import irn, psa

METHODS: dict[str, ModuleType] = {"psa": psa, "irn": irn}


@dataclass(frozen=True)
class LabelWork:
    """Where the maps and images are, and how labels are made of them."""

    method: str
    index: tuple[str, ...]
    cams: str
    root: str | None
    settings: Mapping[str, Any]


class LabelMaker:
    """Makes the labels of one image after the other."""

    def __init__(self, work: LabelWork) -> None:
        self.work, self.cams = work, Run([work.cams], "cams")
        self.images = {item_id: source for source in sources_of(Run(work.index, "index"), work.root)
                       for item_id in source.index.ids}

    def __call__(self, item_id: str) -> Item:
        """Return the item with its label, packed. Raises BadData for an image or maps that can't be used."""
        item = self.cams.item(item_id)
        if item.error is not None:
            raise BadData(item.error)
        image = self.images[item_id].image(item_id)
        maps, _ = full_size(item, len(self.cams.classes) - 1)
        if image.shape[:2] != maps.shape[1:]:
            raise BadData(f"the image is {image.shape[:2]}, its maps are for {maps.shape[1:]}", "make the maps again")
        return packed(item_id, METHODS[self.work.method].label_of(image, maps, self.work.settings))


def packed(item_id: str, label: np.ndarray) -> Item:
    """Return an item with a label (h, w) uint8: those of all images are in memory, at a fiftieth of their size."""
    small = np.frombuffer(zlib.compress(label.tobytes(), 1), np.uint8)
    return Item(item_id, {"label": small}, {"height": label.shape[0], "width": label.shape[1]})


def unpacked(item: Item) -> np.ndarray:
    """Return the label (h, w) uint8 of an item."""
    plain = zlib.decompress(item.datasets["label"].tobytes())
    return np.frombuffer(plain, np.uint8).reshape(int(item.attrs["height"]), int(item.attrs["width"]))
