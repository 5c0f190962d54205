"""Builds what the page shows of each image: layers, scores and tags. Arrays in, plain data for JSON out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from stages.data.class_colours import class_colours
from stages.data.figures import resize_image
from stages.data.image_size import compute_reduced_size, resize_labels
from stages.data.image_source import ImageSource
from stages.data.masks import get_ignore_index
from stages.errors import BadData
from stages.report.encode import MAX_CAM_SIDE, encode_cams, encode_mask, encode_photograph
from stages.report.score_runs import RunScores, Truth, read_truth_if_valid

IMAGES_PER_CHUNK = 20
Size = tuple[int, int]


class Reader(Protocol):
    """Reads the masks and CAMs of a run at the size of the page; see `stages.flow.compared_runs`."""

    kind: str
    title: str
    can_read_masks: bool

    def find_problem(self, item_id: str) -> str:
        """Return why the run has nothing of an image; empty if it has."""

    def read_small_maps(self, item_id: str, size: Size, max_side: int) -> tuple[Any, tuple[float, float]]:
        """Return `maps` (K, h, w), `class_ids` (K,) and `scores` (K,), and what they cover of the image."""

    def read_mask(self, item_id: str, size: Size) -> np.ndarray:
        """Return the mask (h, w)."""


def build_layers(readers: Sequence[Reader], backgrounds: Sequence[str], *, has_truth: bool) -> list[dict[str, Any]]:
    """Return the layers over the photograph: CAMs and masks of each run, and the ground truth.

    CAMs that can be read as masks have a second layer. `run` is the position of the reader.
    """
    layers: list[dict[str, Any]] = [{"kind": "truth", "title": "Ground truth", "run": -1}] if has_truth else []
    for position, (reader, background) in enumerate(zip(readers, backgrounds, strict=True)):
        if reader.kind == "cams":
            layers.append({"kind": "cams", "title": reader.title, "run": position})
        if reader.can_read_masks:
            note = f" as masks{f', {background}' if background else ''}" if reader.kind == "cams" else ""
            layers.append({"kind": "masks", "title": f"{reader.title}{note}", "run": position})
    return layers


class ImageEncoder:
    """Encodes the photograph and the layers of an image, and collects which photographs cannot be read."""

    def __init__(self, readers: Sequence[Reader], layers: Sequence[dict[str, Any]], sources: dict[str, ImageSource],
                 truth: Truth, num_classes: int, max_side: int) -> None:
        """Encode photographs with `max_side` pixels."""
        self._readers, self._layers, self._sources, self._truth = readers, layers, sources, truth
        self._ignore_index = get_ignore_index(num_classes)
        self._max_side = max_side
        self.problems: dict[str, str] = {}
        self.class_ids: dict[str, list[int]] = {}

    def find_size(self, item_id: str) -> Size:
        """Return the size (H, W) of an image in the page, without decoding it; a square if it is unknown."""
        try:
            return compute_reduced_size(self._truth.read_size(item_id), self._max_side)
        except BadData:
            return self._max_side, self._max_side

    def encode(self, item_id: str) -> dict[str, Any]:
        """Return {"p": the photograph, "l": the data of each layer, "e": why the photograph is missing}."""
        size = self.find_size(item_id)
        encoded: dict[str, Any] = {"l": [self._encode_layer(layer, item_id, size) for layer in self._layers]}
        self.class_ids[item_id] = sorted({class_id for layer in encoded["l"] for class_id in layer.get("c", ())
                                          if class_id > 0})
        try:
            image = self._sources[item_id].read_image(item_id)
            encoded["p"] = encode_photograph(image if image.shape[:2] == size else resize_image(image, size))
        except BadData as error:
            encoded["e"] = self.problems[item_id] = str(error)
        return encoded

    def _encode_layer(self, layer: dict[str, Any], item_id: str, size: Size) -> dict[str, Any]:
        if layer["kind"] == "truth":
            mask, problem = read_truth_if_valid(self._truth, item_id)
            return {"e": problem or "no ground truth"} if mask is None else self._encode_mask(mask, size)
        reader = self._readers[layer["run"]]
        if problem := reader.find_problem(item_id):
            return {"e": problem}
        if layer["kind"] == "masks":
            return self._encode_mask(reader.read_mask(item_id, size), size)
        small = compute_reduced_size(size, MAX_CAM_SIDE)
        maps, covers = reader.read_small_maps(item_id, small, MAX_CAM_SIDE)
        return encode_cams(maps.maps, maps.class_ids, maps.scores, covers)

    def _encode_mask(self, mask: np.ndarray, size: Size) -> dict[str, Any]:
        return encode_mask(resize_labels(mask, size), self._ignore_index)


def describe_image(item_id: str, size: Size, full_size: Size | None, tags: Sequence[int] | None,
                   class_ids: Sequence[int], scores: RunScores) -> dict[str, Any]:
    """Return what the page sorts and filters by: id, sizes, tags, classes, IoU per run, score, disagreement per pair.
    """
    return {"id": item_id, "h": size[0], "w": size[1], "full": list(full_size) if full_size else None,
            "tags": None if tags is None else list(tags), "classes": list(class_ids),
            "iou": {str(position): _round(score.compute_image_iou(item_id))
                    for position, score in scores.scores.items()},
            "score": _round(scores.best_scores.get(item_id)),
            "dis": [_round(values.get(item_id)) for values in scores.disagreements.values()],
            **({"note": scores.problems[item_id]} if item_id in scores.problems else {})}


def describe_classes(names: Sequence[str]) -> list[dict[str, str]]:
    """Return name and colour of the classes 0..C."""
    colours = class_colours(np.arange(len(names)))
    return [{"name": name, "colour": f"#{bytes(colour).hex()}"} for name, colour in zip(names, colours, strict=True)]


def _round(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)
