"""Read JSON files of annotation tools and the values in them; every error names the entry."""

from __future__ import annotations

import base64
import binascii
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.images import MAX_PIXELS
from stages.data.tables import read_text_file
from stages.errors import BadData

_REPAIR_REMEDY = "Correct this entry, or export the annotations again"


def read_json(path: Path, remedy: str) -> Any:
    """Return the content of a JSON file. Raises MissingInput, or BadData with `remedy` if it is not JSON."""
    try:
        return json.loads(read_text_file(path))
    except (ValueError, RecursionError) as error:
        raise BadData(f"the file is not valid JSON ({error})", remedy, where=str(path)) from None


def get_list(entry: dict[str, Any], key: str, name: str, where: str) -> list[dict[str, Any]]:
    """Return the objects of a list, () if it is absent or null. Raises BadData for anything else."""
    values = entry.get(key)
    values = [] if values is None else values
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise BadData(f"{name}{key} is not a list of objects", _REPAIR_REMEDY, where=where)
    return values


def read_numbers(values: Any, count: int | None, name: str, where: str) -> list[float]:
    """Return finite numbers, `count` of them if it is given. Raises BadData for anything else."""
    is_valid = isinstance(values, list) and all(
        isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300 and math.isfinite(value)
        for value in values)
    if not is_valid or (count is not None and len(values) != count):
        raise BadData(f"{name} is {str(values)[:40]}, which is not {'a list of' if count is None else count} numbers",
                      _REPAIR_REMEDY, where=where)
    return [float(value) for value in values]


def read_points(points: Any, name: str, where: str) -> np.ndarray:
    """Return points [[x, y], ...] as an array (n, 2). Raises BadData for anything else."""
    if not isinstance(points, list):
        raise BadData(f"{name} is {str(points)[:40]}, which is not a list of [x, y]", _REPAIR_REMEDY, where=where)
    return np.array([read_numbers(point, 2, f"{name}[{position}]", where) for position, point in enumerate(points)],
                    dtype=float).reshape(-1, 2)


def read_size(height: Any, width: Any, name: str, where: str) -> tuple[int, int] | None:
    """Return the (H, W) of an image, None if either is absent. Raises BadData unless both are 1, 2, ..."""
    if height is None or width is None:
        return None
    sides = [int(side) if isinstance(side, float) and side.is_integer() else side for side in (height, width)]
    is_valid = all(type(side) is int and side > 0 for side in sides) and sides[0] * sides[1] <= MAX_PIXELS
    if not is_valid:
        raise BadData(f"{name} has the height {height!r} and the width {width!r}, which is not the size of an image",
                      _REPAIR_REMEDY, where=where)
    return sides[0], sides[1]


def decode_base64(text: Any, name: str, where: str) -> bytes:
    """Return the bytes of a base64 text. Raises BadData for another text."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise BadData(f"{name} is not base64", _REPAIR_REMEDY, where=where) from None


def draw_ellipse(centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0) -> np.ndarray:
    """Return an ellipse as a polygon of 720 corners (1440,), turned by `angle` degrees clockwise as seen."""
    turn, phases = math.radians(angle), np.linspace(0, 2 * np.pi, 720, endpoint=False)
    along, across = radii[0] * np.cos(phases), radii[1] * np.sin(phases)
    x = centre[0] + along * math.cos(turn) - across * math.sin(turn)
    y = centre[1] + along * math.sin(turn) + across * math.cos(turn)
    return np.stack((x, y), axis=1).ravel()
