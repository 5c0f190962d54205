"""The histories of many shards: whether they are of one run, and one history for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.shards.reader import Shard
from stages.shards.request import differences, joined_digest
from stages.shards.schema import KINDS

# Parts of a run may be made on machines of several kinds; `--device auto` also decides on the size of a batch.
_OF_THE_MACHINE = ("device", "batch_size", "threads")


def made_otherwise(first: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> str:
    """Return in what the provenances of two shards differ, as `stage.setting: first -> other`; empty if of one run.

    Parts of a run come from the same stages, settings, nets and weights; the shards that they were made from, the
    machine and the version of the tool may differ.
    """
    if first == other:
        return ""
    one, two = _by_stage(first), _by_stage(other)
    return "" if one == two else differences(one, two)  # a run of 1,000 shards asks 1,000 times


def _by_stage(provenance: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    stages = [str(entry.get("stage")) for entry in provenance]
    return {stage + " again" * stages[:place].count(stage): {
        "method": entry.get("method"), **_but("config", entry, _OF_THE_MACHINE), **_but("inputs", entry, KINDS)}
        for place, (stage, entry) in enumerate(zip(stages, provenance, strict=True))}


def _but(name: str, entry: Mapping[str, Any], without: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return what an entry has under `name`, but for some keys; another program may have put there what it likes."""
    found = entry.get(name)
    return ({key: value for key, value in found.items() if key not in without} if isinstance(found, dict)
            else {name: found})


def joined_history(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """Return the provenance that stands for that of all `shards` of a run: one digest names inputs that differ."""
    return [_joined(entries) for entries in zip(*(shard.provenance for shard in shards), strict=True)]


def _joined(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name in sorted({name for entry in entries for name in entry.get("inputs", {})}):
        found = sorted({str(entry["inputs"][name]) for entry in entries if name in entry.get("inputs", {})})
        inputs[name] = joined_digest(found)
    return {**entries[-1], "inputs": inputs}
