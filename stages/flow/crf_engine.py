"""Chooses the code that computes a dense CRF, and records the choice."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.errors import UsageError
from stages.flow.device import resolve_device

_CPU_ENGINES = ("numba", "pydensecrf")


def choose_engine(engine: str, device: str) -> str:
    """Return the engine for `--engine` and a resolved device type; auto is torch on a GPU and numba on a CPU."""
    if engine != "auto":
        return engine
    return "torch" if device == "cuda" else "numba"


def resolve_engine(engine: str, device: str) -> tuple[str, str]:
    """Return the engine and the device type of a command whose `--device` is for the CRF alone.

    Raises UsageError for a GPU with an engine that computes on the CPU, and whatever `resolve_device` raises.
    """
    if engine not in _CPU_ENGINES:
        kind = resolve_device(device)
        return choose_engine(engine, kind), kind
    if device.startswith("cuda"):
        raise UsageError(f"--engine {engine} computes on the CPU, so it can't use --device {device}",
                         "Use --engine torch, or leave out --device")
    return engine, resolve_device("cpu" if device == "auto" else device)


def record_engine(settings: Mapping[str, Any], engine: str) -> dict[str, Any]:
    """Return the settings as recorded by a command whose CRF could once be computed by numba only.

    Without an `engine` they stand for numba, so that results made before there was a choice are still up to date.
    """
    others = {name: value for name, value in settings.items() if name != "engine"}
    return others if engine == "numba" else {**others, "engine": engine}
