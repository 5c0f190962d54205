"""The history of many shards as one: parts of a run differ in the digests of what they were made from, only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stages.errors import BadData
from stages.shards.reader import Shard
from stages.shards.request import differences, joined_digest

_WITHOUT_MEANING = ("version", "inputs")


def joined_history(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """Return the provenance that stands for that of all `shards`: inputs that differ are named by one digest.

    Raises BadData for shards that were made by other stages or with other settings.
    """
    first = shards[0]
    for shard in shards[1:]:
        changed = differences(_settings(first), _settings(shard))
        if changed:
            raise BadData(f"was made otherwise than {first.path} ({changed})", "give the parts of one run",
                          where=str(shard.path))
    return [_joined(entries) for entries in zip(*(shard.provenance for shard in shards), strict=True)]


def _settings(shard: Shard) -> dict[str, Any]:
    """Return what the parts of a run have in common, by the place in its history."""
    return {str(place): {key: value for key, value in entry.items() if key not in _WITHOUT_MEANING}
            for place, entry in enumerate(shard.provenance)}


def _joined(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name in sorted({name for entry in entries for name in entry.get("inputs", {})}):
        found = sorted({str(entry["inputs"][name]) for entry in entries if name in entry.get("inputs", {})})
        inputs[name] = joined_digest(found)
    return {**entries[-1], "inputs": inputs}
