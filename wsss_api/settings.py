"""Builds the settings of a stage from keyword arguments."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from stages.errors import UsageError
from stages.settings import field_types, validate_config
from wsss_api.errors import UnknownSetting, suggest_similar

_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}


def build_settings(config: type, values: Mapping[str, Any], function: str, others: Iterable[str] = ()) -> Any:
    """Return a config with `values` and the defaults of the command for everything else.

    Raises UnknownSetting for a name that is neither a setting nor one of `others`, the further arguments of
    `function`; UsageError for a value of another type or out of range.
    """
    fields = {field.name for field in dataclasses.fields(config)}
    for name in values:
        if name not in fields:
            raise UnknownSetting(f"{function} has no setting {name!r}",
                                 suggest_similar(name, [*sorted(fields), *others], "settings"))
    kinds = field_types(config)
    return validate_config(config(**{name: convert_value(name, value, kinds[name]) for name, value in values.items()}))


def convert_value(name: str, value: Any, kind: Any) -> Any:
    """Return a value as the settings store it: lists as tuples, 1 as 1.0 where numbers are expected.

    A list may also be written as on the command line, "1,0.5". Raises UsageError for another type.
    """
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None:
            return None
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is not tuple:
        return _convert_element(name, value, kind)
    element_kind = typing.get_args(kind)[0]
    if isinstance(value, str):
        return tuple(_parse_element(name, part.strip(), element_kind) for part in value.split(",") if part.strip())
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        value = (value,)
    return tuple(_convert_element(name, element, element_kind) for element in value)


def _parse_element(name: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{name}={text!r} is not {_TYPE_NAMES[kind]}", f"Pass for example {name}=(1, 2)") from None


def _convert_element(name: str, value: Any, kind: type) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()  # a number of numpy
    if kind is float and type(value) is int:
        return float(value)
    if kind is str and hasattr(value, "__fspath__"):
        return value.__fspath__()
    if type(value) is not kind:
        raise UsageError(f"{name}={value!r} is not {_TYPE_NAMES[kind]}")
    return value
