"""Settings of a stage: a frozen dataclass whose fields carry their help, range, unit and source.

The command line builds its options from these fields, the provenance records their values, and nothing
else defines them. Standard library only, so that `wsss --help` stays quick.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from typing import Any

from stages.errors import UsageError


def setting(
    default: Any,
    help: str,
    *,
    source: str = "",
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    counts: tuple[int, ...] = (),
    ascending: bool = False,
) -> Any:
    """Return a dataclass field: `default`, one sentence of `help`, where the default comes from, its range.

    `counts` are the lengths that a comma list may have, empty for any; `ascending` lists are ranges.
    """
    described = {
        "help": help, "source": source, "unit": unit, "low": low, "high": high, "choices": choices, "counts": counts,
        "ascending": ascending,
    }
    return dataclasses.field(default=default, metadata=described)


@functools.cache
def field_types(config: type) -> dict[str, Any]:
    """Return the resolved type of every field of a settings class. Callers must not change it."""
    return typing.get_type_hints(config)


def option_name(field: str) -> str:
    """Return the command-line spelling of a field: `crop_size` becomes `--crop-size`."""
    return "--" + field.replace("_", "-")


def checked(config: Any) -> Any:
    """Return `config` when every value is within its range; else raise UsageError naming the option."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("counts"):
            _check_list(option_name(field.name), value, field.metadata)
        for one in value if isinstance(value, tuple) else (value,):
            _check(option_name(field.name), one, field.metadata)
    return config


def _check_list(option: str, value: tuple[float, ...], described: Mapping[str, Any]) -> None:
    if len(value) not in described["counts"]:
        wanted = " or ".join(str(count) for count in described["counts"] if count)
        none = " or none" if 0 in described["counts"] else ""
        raise UsageError(f"{option} takes {wanted} numbers{none}, not {len(value)}", "separate them by commas")
    if described["ascending"] and list(value) != sorted(value):
        raise UsageError(f"{option} {','.join(map(str, value))} is no range", "give the smaller number first")


def _check(option: str, value: Any, described: Mapping[str, Any]) -> None:
    choices = described.get("choices")
    if choices and value is not None and value not in choices:
        raise UsageError(f"{option} {value!r} is not one of {', '.join(choices)}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = described.get("low"), described.get("high")
        if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
            raise UsageError(f"{option} {value} is out of range", f"give {_range(low, high)}")


def _range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"a value from {low} to {high}"


def as_plain(config: Any) -> dict[str, Any]:
    """Return the settings as a dictionary that JSON can hold (tuples become lists)."""
    plain = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain
