"""Turn the lines of training logs into charts: one per quantity, with a curve per network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.data.curve_plots import Chart

_NOT_CURVES = ("epoch", "step", "seconds", "waited")
_CHANCE_SUFFIXES = ("_of_chance", "_of_chance_sd")
_FIRST, _LAST = ("loss", "map"), ("lr",)


def build_training_charts(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Chart]:
    """Return the charts of logs by name: loss and mean average precision first, other quantities, learning rate last.

    Each line of a log is the mean over an epoch. A quantity that was logged with its value for guessing (map and
    map_of_chance) is drawn with it.
    """
    names = list(dict.fromkeys(name for lines in logs.values() for line in lines for name, value in line.items()
                               if _is_number(value)))
    quantities = [name for name in names if name not in _NOT_CURVES and not name.endswith(_CHANCE_SUFFIXES)]
    ordered = [*(name for name in _FIRST if name in quantities),
               *(name for name in quantities if name not in (*_FIRST, *_LAST)),
               *(name for name in _LAST if name in quantities)]
    axis = _choose_axis(logs)
    return [Chart(_describe(name), axis, _build_curves(logs, name, axis)) for name in ordered]


def _choose_axis(logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return "epoch", or "step" where epochs do not tell lines apart, as in a training of a number of steps."""
    epochs = [[line.get("epoch") for line in lines] for lines in logs.values()]
    return "epoch" if all(None not in numbers and len(set(numbers)) == len(numbers) for numbers in epochs) else "step"


def _build_curves(logs: Mapping[str, Sequence[Mapping[str, Any]]], name: str,
                  axis: str) -> dict[str, list[tuple[float, float]]]:
    curves = {}
    for log_name, lines in logs.items():
        for suffix, note in (("", ""), ("_of_chance", " (chance)")):
            points = [(float(line[axis]), float(line[name + suffix])) for line in lines
                      if _is_number(line.get(name + suffix))]
            if points:
                curves[log_name + note] = points
    return curves


def _describe(name: str) -> str:
    return {"map": "map: mean average precision", "lr": "lr: learning rate"}.get(name, name)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
