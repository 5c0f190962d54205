"""Read and write the summary that an index records of its images; `index_statistics` computes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stages.errors import BadData
from stages.shards import Shard

SUMMARY_ATTRIBUTE = "summary"


def encode_summary(summary: dict[str, Any]) -> str:
    """Return a summary as the text of a root attribute; equal summaries give equal texts."""
    return json.dumps(summary, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def read_summary(index: Shard) -> dict[str, Any] | None:
    """Return the summary that an index shard records, or None if it has none, as those of older versions."""
    try:
        summary = json.loads(index.attribute(SUMMARY_ATTRIBUTE))
    except (BadData, ValueError, TypeError):
        return None
    return summary if isinstance(summary, dict) else None


def name_classes(summary: dict[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    """Return a summary for readers: counts of images and shares of pixels by class name instead of lists by id."""
    named = {name: value for name, value in summary.items() if name not in ("class_images", "class_pixels")}
    named["class_images"] = {name: summary["class_images"][class_id] for class_id, name in enumerate(classes)
                             if class_id}
    if "class_pixels" in summary:
        total = sum(summary["class_pixels"]) + summary["ignored_pixels"]
        shares = {name: count / max(1, total) for name, count in zip(classes, summary["class_pixels"], strict=True)
                  if name}
        named["pixel_shares"] = {name: round(share, 6) for name, share in shares.items()}
        named["ignored_share"] = round(summary["ignored_pixels"] / max(1, total), 6)
    return named
