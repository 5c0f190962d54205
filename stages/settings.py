"""Settings of a stage: a frozen dataclass whose fields carry their help, range, unit and source.

The command line builds its options from these fields, and the provenance records their values; settings are defined
nowhere else. Uses only the standard library, so that `wsss --help` stays fast.
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
    lengths: tuple[int, ...] = (),
    ascending: bool = False,
    allows_zero: bool = False,
) -> Any:
    """Return a dataclass field with a default, one sentence of help, the source of the default, unit and range.

    `lengths` are the allowed lengths of a comma-separated list, empty for any; an `ascending` list is a range. With
    `allows_zero`, 0 turns the setting off, and the range is that of other values.
    """
    metadata = {
        "help": help, "source": source, "unit": unit, "low": low, "high": high, "choices": choices, "lengths": lengths,
        "ascending": ascending, "allows_zero": allows_zero,
    }
    return dataclasses.field(default=default, metadata=metadata)


def max_side_setting(default: int = 1024, *, note: str = "") -> Any:
    """Return the field `max_side`: the size at which images are computed. The default leaves VOC and COCO unchanged."""
    return setting(default, "Longest side at which an image is computed; larger images are reduced to it, and 0 never "
                   f"reduces them. Memory and time depend on it.{f' {note}' if note else ''}", unit="pixels", low=32,
                   allows_zero=True)


def crf_engine_setting() -> Any:
    """Return the field `engine`: the code that computes a dense CRF."""
    return setting("auto", "Code that computes the dense CRF; results differ by rounding only. auto: numba on a CPU, "
                   "torch on a GPU. numba and pydensecrf always use the CPU; pydensecrf needs the extra crf.",
                   choices=("auto", "numba", "torch", "pydensecrf"))


@functools.cache
def field_types(config: type) -> dict[str, Any]:
    """Return the resolved type of every field of a settings class. Callers must not change the dictionary."""
    return typing.get_type_hints(config)


def option_name(field: str) -> str:
    """Return the name of the option for a field: `crop_size` becomes `--crop-size`."""
    return "--" + field.replace("_", "-")


def validate_config(config: Any) -> Any:
    """Return `config` if every value is valid; else raise UsageError naming the option."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("lengths"):
            _check_list(option_name(field.name), value, field.metadata)
        for element in value if isinstance(value, tuple) else (value,):
            _check_value(option_name(field.name), element, field.metadata)
    return config


def _check_list(option: str, values: tuple[float, ...], metadata: Mapping[str, Any]) -> None:
    if len(values) not in metadata["lengths"]:
        lengths = " or ".join(str(length) for length in metadata["lengths"] if length)
        or_none = " or none" if 0 in metadata["lengths"] else ""
        raise UsageError(f"{option} takes {lengths} numbers{or_none}, not {len(values)}", "Separate them by commas")
    if metadata["ascending"] and list(values) != sorted(values):
        raise UsageError(f"{option} {','.join(map(str, values))} is not a range", "Give the smaller number first")


def _check_value(option: str, value: Any, metadata: Mapping[str, Any]) -> None:
    choices = metadata.get("choices")
    if choices and value is not None and value not in choices:
        raise UsageError(f"{option} {value!r} is not one of {', '.join(choices)}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = metadata.get("low"), metadata.get("high")
        if metadata.get("allows_zero") and value == 0:
            return
        if not math.isfinite(value) or (low is not None and value < low) or (high is not None and value > high):
            zero = "0, or " if metadata.get("allows_zero") else ""
            raise UsageError(f"{option} {value} is out of range", f"Use {zero}{_describe_range(low, high)}")


def _describe_range(low: float | None, high: float | None) -> str:
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"a value from {low} to {high}"


def to_json_dict(config: Any) -> dict[str, Any]:
    """Return the settings as a dictionary for JSON (tuples become lists)."""
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        values[field.name] = list(value) if isinstance(value, tuple) else value
    return values
