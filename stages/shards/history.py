"""Compares the provenance of shards, to see whether they belong to one run, and merges it into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.shards.reader import Shard
from stages.shards.request import combine_digests, describe_differences
from stages.shards.schema import KINDS

# Parts of a run may be made on different machines; `--device auto` also chooses the batch size.
_MACHINE_SETTINGS = ("device", "batch_size", "threads")


def describe_provenance_differences(first: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> str:
    """Return how the provenance of two shards differs, as `stage.setting: first -> other`; empty if they are one run.

    Parts of a run come from the same stages, settings, networks and weights; their input shards, the machine and the
    version of the tool may differ.
    """
    if first == other:  # a shortcut, because a run of 1,000 shards calls this 1,000 times
        return ""
    first_stages, other_stages = _group_by_stage(first), _group_by_stage(other)
    return "" if first_stages == other_stages else describe_differences(first_stages, other_stages)


def _group_by_stage(provenance: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    stages = [str(entry.get("stage")) for entry in provenance]
    return {stage + " again" * stages[:position].count(stage): {
        "method": entry.get("method"), **_select_keys("config", entry, exclude=_MACHINE_SETTINGS),
        **_select_keys("inputs", entry, exclude=KINDS)}
        for position, (stage, entry) in enumerate(zip(stages, provenance, strict=True))}


def _select_keys(name: str, entry: Mapping[str, Any], *,
                 exclude: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return the dictionary `entry[name]` without the keys in `exclude`.

    Another program may have stored a value that is no dictionary; it is returned under `name`.
    """
    value = entry.get(name)
    return ({key: setting for key, setting in value.items() if key not in exclude} if isinstance(value, dict)
            else {name: value})


def merge_provenance(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """Return one provenance for all `shards` of a run; the digests of different inputs are combined into one."""
    return [_merge_entries(entries) for entries in zip(*(shard.provenance for shard in shards), strict=True)]


def _merge_entries(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for name in sorted({name for entry in entries for name in entry.get("inputs", {})}):
        digests = sorted({str(entry["inputs"][name]) for entry in entries if name in entry.get("inputs", {})})
        inputs[name] = combine_digests(digests)
    return {**entries[-1], "inputs": inputs}
