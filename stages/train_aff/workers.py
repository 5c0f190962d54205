"""Training labels of `train-aff`, computed from the CAMs before the training in worker processes."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch

from stages.data.image_source import open_image_sources
from stages.errors import BadData
from stages.flow.item_arrays import resize_to_input
from stages.kernels.dense_crf import dense_crf
from stages.shards import Item, Run
from stages.train_aff import irn, psa

METHODS: dict[str, ModuleType] = {"psa": psa, "irn": irn}


@dataclass(frozen=True)
class LabelWork:
    """Paths of the CAMs and images, the settings of the labels, and what computes their CRFs, where."""

    method: str
    index: tuple[str, ...]
    cams: str
    root: str | None
    max_side: int
    settings: Mapping[str, Any]
    engine: str
    device: str


class LabelBuilder:
    """Computes the training labels of single images."""

    def __init__(self, work: LabelWork) -> None:
        self.work, self.cams = work, Run([work.cams], "cams")
        if work.engine == "torch":
            torch.set_num_threads(1)  # there is a process for each core
        self.crf = partial(dense_crf, engine=work.engine, device=work.device)
        self.images = {item_id: source for source in open_image_sources(
                           Run(work.index, "index"), work.root, max_side=work.max_side)
                       for item_id in source.index.ids}

    def __call__(self, item_id: str) -> Item:
        """Compute the item with its compressed label. Raises BadData if the image or its CAMs can't be used."""
        item = self.cams.item(item_id)
        if item.error is not None:
            raise BadData(item.error)
        source = self.images[item_id]
        image, (height, width) = source.read_image(item_id), source.read_size(item_id)
        if (height, width) != (item.attrs["height"], item.attrs["width"]):
            raise BadData(f"the image is {width} x {height} pixels but its CAMs are for {item.attrs['width']} x "
                          f"{item.attrs['height']}", "Re-run `wsss cams` on the current images")
        maps, _ = resize_to_input(item, (image.shape[0], image.shape[1]), len(self.cams.classes) - 1)
        return compress_label(item_id, METHODS[self.work.method].compute_label(image, maps, self.work.settings,
                                                                                   self.crf))


def compress_label(item_id: str, label: np.ndarray) -> Item:
    """Return an item with the label (h, w) uint8, compressed.

    The labels of all images are held in memory; compression reduces them to a fiftieth of their size.
    """
    compressed = np.frombuffer(zlib.compress(label.tobytes(), 1), np.uint8)
    return Item(item_id, {"label": compressed}, {"height": label.shape[0], "width": label.shape[1]})


def decompress_label(item: Item) -> np.ndarray:
    """Return the label (h, w) uint8 of an item."""
    decompressed = zlib.decompress(item.datasets["label"].tobytes())
    return np.frombuffer(decompressed, np.uint8).reshape(int(item.attrs["height"]), int(item.attrs["width"]))
