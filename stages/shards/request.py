"""Provenance entries and requests (stage, method, settings, digests of inputs), and how two requests differ."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from stages import VERSION

TOOL = "wsss"


def provenance_entry(stage: str, method: str, config: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the entry that a stage adds to the provenance: tool, version, stage, settings and inputs."""
    entry = {"tool": TOOL, "version": VERSION, "stage": stage, "config": config, "inputs": inputs}
    return {**entry, "method": method} if method else entry


def extract_request(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a provenance entry that decides whether an output is up to date (not the tool's version)."""
    return {key: entry.get(key) for key in ("stage", "method", "config", "inputs") if entry.get(key) is not None}


def describe_differences(old: Any, new: Any, prefix: str = "") -> str:
    """Return the keys in which two requests differ, as `key: old -> new`; empty when they are the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        differences = [describe_differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
                       for key in sorted(set(old) | set(new))]
        return ", ".join(text for text in differences if text)
    if json.dumps(old) == json.dumps(new):
        return ""
    return f"{prefix.removeprefix('config.')}: {_shorten(old)} -> {_shorten(new)}"


def _shorten(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if len(text) == 64 else text[:60]


def hash_json(value: Any) -> str:
    """Return the sha256 of a value, written as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def combine_digests(digests: list[str]) -> str:
    """Return one digest for many, so that a run of 1,000 parts takes one line of provenance.

    It is the hash of the sorted list; a single digest is returned unchanged.
    """
    return digests[0] if len(digests) == 1 else hash_json(sorted(digests))
