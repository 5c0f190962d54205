"""Turn photographs with their CAMs, masks, regions and ground truth into panels: arrays in, pictures out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from stages.data.contact_pages import Block, fit_panel_side
from stages.data.draw import colour_cams, find_heated_classes, find_mask_classes
from stages.data.figures import (
    Panel,
    build_heat_panels,
    build_mask_panel,
    build_photograph_panel,
    build_region_panel,
    build_text_panel,
    fit_size,
    format_tags,
    resize_image,
)
from stages.data.image_size import resize_labels
from stages.data.image_source import ImageSource
from stages.data.region_outlines import describe_regions

SINGLE_SIDE, GRID_SIDE = 320, 240
_MIN_DRAWN_VALUE = 0.05  # of CAMs that include the background, which have a map for every class
Size = tuple[int, int]


class RunReader(Protocol):
    """Reads the CAMs, masks or regions of a run; see `stages.flow.panel_inputs`."""

    kind: str
    classes: tuple[str, ...]
    path: str
    includes_background: bool
    can_read_masks: bool

    def find_problem(self, item_id: str) -> str:
        """Return why the run has nothing of an image; empty if it has."""

    def read_scores(self, item_id: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Return class ids (K,) and scores (K,) of the CAMs."""

    def read_maps(self, item_id: str, size: Size) -> Any:
        """Return `maps` (K, h, w), `class_ids` (K,) and `scores` (K,)."""

    def read_mask(self, item_id: str, size: Size) -> np.ndarray:
        """Return the mask (h, w)."""

    def read_regions(self, item_id: str) -> np.ndarray:
        """Return the labels (H, W) of the regions at the size of the image."""


@dataclass(frozen=True)
class Photographs:
    """What is drawn of the images `ids`: runs with their titles, some classes (empty: all), CAMs as masks or not."""

    ids: tuple[str, ...]
    sources: dict[str, ImageSource]
    readers: tuple[RunReader, ...]
    titles: tuple[str, ...]
    has_own_titles: bool
    class_ids: tuple[int, ...]
    draws_masks: bool
    has_truth: bool

    @property
    def num_columns(self) -> int:
        """The number of panels of an image in a grid."""
        return 1 + len(self.readers) + self.has_truth


def build_single_block(photographs: Photographs, side: int | None) -> tuple[Block, list[str]]:
    """Return the panels of the only photograph, one per class and CAM run, and notes for the user."""
    item_id, notes = photographs.ids[0], []
    image, tags = _read_photograph(photographs, item_id, side or SINGLE_SIDE)
    panels, drawn_classes = [build_photograph_panel(image, tags)], []
    num_cam_runs = sum(reader.kind == "cams" for reader in photographs.readers)
    for reader, title in zip(photographs.readers, photographs.titles, strict=True):
        if reader.kind != "cams" or photographs.draws_masks or reader.find_problem(item_id):
            panel, class_ids = _build_run_panel(photographs, reader, title, item_id, image)
            panels.append(panel)
            drawn_classes += class_ids
            continue
        maps, left_out = _select_drawn_maps(photographs, reader, reader.read_maps(item_id, image.shape[:2]))
        missing = [reader.classes[class_id] for class_id in photographs.class_ids if class_id not in maps.class_ids]
        if missing:
            notes.append(f"{title}: {item_id} has no CAM of {', '.join(missing)}.")
        run_title = title if num_cam_runs > 1 or photographs.has_own_titles else ""
        panels += build_heat_panels(image, *maps, reader.classes, run_title)
        if left_out:
            notes.append(_describe_left_out(title, left_out))
    if photographs.has_truth:
        panel, class_ids = _build_truth_panel(photographs, item_id, image)
        panels.append(panel)
        drawn_classes += class_ids
    return Block(item_id, panels, tuple(drawn_classes)), notes


def _describe_left_out(title: str, names: list[str]) -> str:
    whose = "class whose map is" if len(names) == 1 else "classes whose maps are"
    listed = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    return (f"{title}: left out {len(names)} {whose} nowhere above {_MIN_DRAWN_VALUE} ({listed}). Draw them "
            f"with --classes {','.join(names[:5])}.")


def build_grid_block(photographs: Photographs, item_id: str, side: int | None) -> Block:
    """Return the panels of one of several photographs: the photograph, one panel per run, and the ground truth."""
    image, tags = _read_photograph(photographs, item_id, fit_panel_side(side or GRID_SIDE, photographs.num_columns))
    parts = [_build_run_panel(photographs, reader, title, item_id, image)
             for reader, title in zip(photographs.readers, photographs.titles, strict=True)]
    if photographs.has_truth:
        parts.append(_build_truth_panel(photographs, item_id, image))
    panels = [Panel(image, "photograph"), *(panel for panel, _ in parts)]
    counts = _describe_region_counts(photographs, parts)
    class_ids = tuple(class_id for _, ids in parts for class_id in ids)
    return Block("   ".join((item_id, *counts, format_tags(tags))), panels, class_ids)


def _describe_region_counts(photographs: Photographs, parts: list[tuple[Panel, tuple[int, ...]]]) -> list[str]:
    """Return the captions of the panels of regions, since the panels of a grid have none; with titles if several."""
    counts = [(panel.title, panel.caption) for reader, (panel, _) in zip(photographs.readers, parts, strict=False)
              if reader.kind == "regions" and panel.caption]
    return [f"{title}: {caption}" if len(counts) > 1 else caption for title, caption in counts]


def read_truth(source: ImageSource, item_id: str, size: Size) -> np.ndarray:
    """Return the ground truth (h, w) of an image at `size`. Raises BadData if the index has none."""
    return resize_labels(source.read_mask(item_id), size)


def _read_photograph(photographs: Photographs, item_id: str, side: int) -> tuple[np.ndarray, list[str] | None]:
    """Return a photograph whose longer side is scaled to `side`, and the names of its tags, None if unknown."""
    source = photographs.sources[item_id]
    image, labels = source.read_image(item_id), source.read_labels(item_id)
    tags = None if labels is None else [source.classes[class_id] for class_id in labels]
    return resize_image(image, fit_size(image.shape, side)), tags


def _build_run_panel(photographs: Photographs, reader: RunReader, title: str, item_id: str,
                     image: np.ndarray) -> tuple[Panel, tuple[int, ...]]:
    """Return the panel of a run, and the classes that it shows in their colours."""
    size = (image.shape[0], image.shape[1])
    if problem := reader.find_problem(item_id):
        return build_text_panel(problem, size, title), ()
    if reader.kind == "regions":
        labels = reader.read_regions(item_id)
        return build_region_panel(image, resize_labels(labels, size), title, describe_regions(labels)), ()
    if reader.kind == "masks" or photographs.draws_masks:
        return _build_mask_panel(photographs, image, reader.read_mask(item_id, size), title)
    (maps, class_ids, scores), _ = _select_drawn_maps(photographs, reader, reader.read_maps(item_id, size))
    return (Panel(colour_cams(maps, class_ids, image=image, scores=scores), title),
            find_heated_classes(maps, class_ids, scores))


def _build_truth_panel(photographs: Photographs, item_id: str, image: np.ndarray) -> tuple[Panel, tuple[int, ...]]:
    source, size = photographs.sources[item_id], (image.shape[0], image.shape[1])
    if not source.has_mask(item_id):
        return build_text_panel("no ground truth", size, "ground truth"), ()
    return _build_mask_panel(photographs, image, read_truth(source, item_id, size), "ground truth")


def _build_mask_panel(photographs: Photographs, image: np.ndarray, mask: np.ndarray,
                      title: str) -> tuple[Panel, tuple[int, ...]]:
    if photographs.class_ids:
        mask = mask.copy()
        others = [class_id for class_id in find_mask_classes(mask) if class_id not in photographs.class_ids]
        mask[np.isin(mask, others)] = 0
    return build_mask_panel(image, mask, title), find_mask_classes(mask)


def _select_drawn_maps(photographs: Photographs, reader: RunReader, maps: Any) -> tuple[Any, list[str]]:
    """Return the maps to draw, and the names of classes that are left out because their maps are almost 0."""
    if photographs.class_ids:
        return maps.select(photographs.class_ids), []
    foreground = [int(class_id) for class_id in maps.class_ids if class_id > 0]
    if not reader.includes_background:
        return maps.select(tuple(foreground)), []
    highest = dict(zip(maps.class_ids.tolist(), maps.maps.max(axis=(1, 2), initial=0).tolist(), strict=True))
    drawn = tuple(class_id for class_id in foreground if highest[class_id] >= _MIN_DRAWN_VALUE)
    return maps.select(drawn), [reader.classes[class_id] for class_id in foreground if class_id not in drawn]
