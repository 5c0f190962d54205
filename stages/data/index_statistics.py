"""Compute the summary of the images of an index: their classes, the pixels of their masks, and their sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from stages.data.mask_counts import MaskCounts, describe_examples, read_counts, select_comparable
from stages.shards import Item


def summarise_items(items: Iterable[Item], classes: Sequence[str]) -> dict[str, Any]:
    """Return counts of the images of an index, as they are stored with it.

    `images` and `failed`; `untagged` (tags unknown) and `without_class` (known to have none); `class_images`, images
    by class id; `sizes`, [height, width] of the image with fewest, median and most pixels. If there are masks: `masks`,
    `class_pixels` by class id, `ignored_pixels`, and `contradictions`: `images`, `compared` with tags, an `example`.
    """
    numbers = Counter[str]()
    class_images, class_pixels = [0] * len(classes), [0] * len(classes)
    sizes: list[tuple[int, int]] = []
    masks: list[MaskCounts] = []
    for item in items:
        numbers["images"] += 1
        if item.error is not None:
            numbers["failed"] += 1
            continue
        _count_tags(item, numbers, class_images)
        if "height" in item.attrs:
            sizes.append((int(item.attrs["height"]), int(item.attrs["width"])))
        counts = read_counts(item, len(classes) - 1)
        if counts is not None:
            numbers["masks"] += 1
            numbers["ignored_pixels"] += counts.ignored
            for class_id, count in counts.pixels.items():
                class_pixels[int(class_id)] += count
            masks.append(counts)
    summary: dict[str, Any] = {name: numbers[name] for name in ("images", "failed", "untagged", "without_class")}
    summary["class_images"] = class_images
    if sizes:
        summary["sizes"] = _select_sizes(sizes)
    if numbers["masks"]:
        summary |= {"masks": numbers["masks"], "class_pixels": class_pixels,
                    "ignored_pixels": numbers["ignored_pixels"]}
        summary["contradictions"] = _summarise_contradictions(select_comparable(masks), classes)
    return summary


def _count_tags(item: Item, numbers: Counter[str], class_images: list[int]) -> None:
    labels = item.datasets.get("labels")
    numbers["untagged"] += labels is None
    numbers["without_class"] += labels is not None and not len(labels)
    for label in set(() if labels is None else labels.tolist()):
        if label < len(class_images):
            class_images[label] += 1


def _select_sizes(sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    positions = {"smallest": 0, "median": (len(ordered) - 1) // 2, "largest": -1}
    return {name: list(ordered[position]) for name, position in positions.items()}


def _summarise_contradictions(compared: Sequence[MaskCounts], classes: Sequence[str]) -> dict[str, Any]:
    wrong = [counts for counts in compared if counts.is_contradiction]
    example = {"example": describe_examples(wrong, classes, 1)} if wrong else {}
    return {"images": len(wrong), "compared": len(compared), **example}
