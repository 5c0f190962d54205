"""What a file was asked to be: stage, method, settings and digests of inputs, and how two such differ."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from stages import VERSION

TOOL = "wsss"


def provenance_entry(stage: str, method: str, config: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the entry that a stage adds to the provenance: who, with which settings, from what."""
    entry = {"tool": TOOL, "version": VERSION, "stage": stage, "config": config, "inputs": inputs}
    return {**entry, "method": method} if method else entry


def request_of(entry: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a provenance entry that decides whether work is the same (not the tool's version)."""
    return {key: entry.get(key) for key in ("stage", "method", "config", "inputs") if entry.get(key) is not None}


def differences(old: Any, new: Any, prefix: str = "") -> str:
    """Return the keys in which two requests differ, as `key: old -> new`; empty when they are the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
                 for key in sorted(set(old) | set(new))]
        return ", ".join(text for text in found if text)
    if json.dumps(old) == json.dumps(new):
        return ""
    return f"{prefix.removeprefix('config.')}: {_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:12] if len(text) == 64 else text[:60]


def sha256_of(value: Any) -> str:
    """Return the sha256 of a value's sorted JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def joined_digest(digests: list[str]) -> str:
    """Return one digest for many: of the sorted list, so that a run of 1,000 parts is one line of provenance."""
    return digests[0] if len(digests) == 1 else sha256_of(sorted(digests))
