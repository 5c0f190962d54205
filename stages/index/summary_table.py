"""Format what an index contains as a table for the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MAX_CLASSES, _NUM_MOST, _NUM_LEAST = 25, 10, 10
_MAX_FAILURES = 3
_MAX_REASON = 160  # characters


def format_summary(summary: Mapping[str, Any], classes: Sequence[str], failures: Mapping[str, str],
                   skipped: Sequence[str]) -> list[str]:
    """Return the lines of the table: images, classes, sizes, failed images (reason by id), and skipped files."""
    num_images = summary["images"]
    masks = f", {_count(summary['masks'], 'mask')}" if "masks" in summary else ""
    num_classes = _count(len(classes) - 1, "class", "classes")
    lines = [f"Summary of the index: {_count(num_images, 'image')}, {num_classes}{masks}"]
    lines += _format_classes(summary, classes)
    lines += _format_tags(summary)
    if "sizes" in summary:
        sizes = {name: f"{height}x{width}" for name, (height, width) in summary["sizes"].items()}
        lines.append(f"  size (height x width): smallest {sizes['smallest']}, median {sizes['median']}, "
                     f"largest {sizes['largest']}")
    if failures:
        lines.append(f"  failed: {_count(len(failures), 'image')}")
        # A reason begins with the path of the file.
        lines += [f"    {_shorten(reason)}" for reason in list(failures.values())[:_MAX_FAILURES]]
        if len(failures) > _MAX_FAILURES:
            lines.append(f"    ... and {len(failures) - _MAX_FAILURES} more (`wsss info` lists them)")
    return lines + [f"  skipped: {sentence}" for sentence in skipped]


def _format_tags(summary: Mapping[str, Any]) -> list[str]:
    usable = summary["images"] - summary["failed"]
    lines = []
    if summary["untagged"]:
        lines.append(f"  without tags (unknown): {_count(summary['untagged'], 'image')}")
    if summary["without_class"]:
        lines.append(f"  known to show no class: {_count(summary['without_class'], 'image')}")
    if "masks" in summary and summary["masks"] < usable:
        lines.append(f"  without mask: {_count(usable - summary['masks'], 'image')}")
    return lines


def _format_classes(summary: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """Return aligned lines with the id, the images and the share of mask pixels of each class."""
    class_pixels = summary.get("class_pixels")
    total = max(1, sum(class_pixels) + summary["ignored_pixels"]) if class_pixels else 1

    def build_row(class_id: int) -> tuple[str, ...]:
        images = str(summary["class_images"][class_id]) if class_id else "-"
        share = (f"{100 * class_pixels[class_id] / total:.1f} %",) if class_pixels else ()
        return (classes[class_id], str(class_id), images, *share)

    ids = range(1, len(classes))
    # A table of 1,000 classes would hide everything else.
    shown, num_hidden = _select_classes(list(ids), summary["class_images"])
    header = ("class", "id", "images", *(("mask pixels",) if class_pixels else ()))
    first_rows = [header, *([build_row(0)] if class_pixels and classes[0] else [])]
    rows = [*first_rows, *map(build_row, shown)]
    if class_pixels and summary["ignored_pixels"]:
        rows.append(("ignored", "-", "-", f"{100 * summary['ignored_pixels'] / total:.1f} %"))
    lines = _align(rows)
    if num_hidden:
        lines.insert(len(first_rows) + _NUM_MOST, f"  ... and {num_hidden} more")
    return lines if len(classes) > 1 else []


def _select_classes(ids: list[int], class_images: Sequence[int]) -> tuple[list[int], int]:
    """Return the ids of the classes to show, and the number of the others: the most and least frequent ones if many."""
    if len(ids) <= _MAX_CLASSES:
        return ids, 0
    ordered = sorted(ids, key=lambda class_id: (-class_images[class_id], class_id))
    shown = [*ordered[:_NUM_MOST], *ordered[-_NUM_LEAST:]]
    return shown, len(ids) - len(shown)


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with names to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
                                                         zip(row[1:], widths[1:], strict=True))]) for row in rows]


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_REASON else text[:_MAX_REASON - 3] + "..."
