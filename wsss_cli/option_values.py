"""Convert the values of options without pydantic, whose import takes longer than the work of a short command.

Typer has pydantic validate every value. Here text, plain numbers and flags, which are all that these commands take,
are converted directly; whatever needs an error message is left to typer, so that its messages stay as they are.
"""

from __future__ import annotations

import re
from typing import Any

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_NEEDS_TYPER = object()


def convert_values_directly(parameters: list[Any]) -> list[Any]:
    """Return the parameters of a command, each with a converter that loads pydantic only for values it rejects."""
    for parameter in parameters:
        # Versions of typer that convert in another way do not have this attribute, and go on as they are.
        if getattr(parameter, "_runtime_param", parameter) is None:
            parameter._runtime_param = _DirectConverter()
    return parameters


class _DirectConverter:
    """Converts a value as typer's own converter would, or hands it over to that."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """Return the value in the type of the parameter. Raises what typer raises for an invalid one."""
        is_list = param.multiple or param.nargs == -1
        if value is None:
            return () if is_list else None
        converted = _convert_list(value) if is_list else _convert_value(value, param)
        if converted is not _NEEDS_TYPER:
            return converted
        param._runtime_param = None
        return param.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _convert_list(values: Any) -> Any:
    """Return paths as a list; the commands have no lists of anything else."""
    is_plain = isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)
    return list(values) if is_plain else _NEEDS_TYPER


def _convert_value(value: Any, param: Any) -> Any:
    kind = param.type_descriptor.annotation
    if kind is str or kind is bool:
        return value if type(value) is kind else _NEEDS_TYPER
    number = _convert_number(value, kind)
    if number is _NEEDS_TYPER:
        return number
    low, high = param.type_descriptor.parameter_info.min, param.type_descriptor.parameter_info.max
    is_in_range = (low is None or number >= low) and (high is None or number <= high)
    return number if is_in_range else _NEEDS_TYPER


def _convert_number(value: Any, kind: Any) -> Any:
    if kind is int:
        is_plain = type(value) is int or (isinstance(value, str) and _INTEGER.fullmatch(value))
    elif kind is float:
        is_plain = type(value) in (int, float) or (isinstance(value, str) and _NUMBER.fullmatch(value))
    else:
        is_plain = False
    return kind(value) if is_plain else _NEEDS_TYPER
