"""Parses `--background`, also `from:EVAL.json`, and describes it for the provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput, UsageError
from stages.kernels.background import Background, parse_background


def resolve_background(text: str) -> tuple[Background, dict[str, Any]]:
    """Return the rule, and the dictionary that the provenance records (rule, chosen_on, and the index for `from:`).

    Raises UsageError, MissingInput, BadData.
    """
    if text.startswith("from:"):
        return _read_chosen_background(Path(text.removeprefix("from:")))
    try:
        background = parse_background(text)
    except ValueError as error:
        raise UsageError(f"--background {error}",
                         "To use a background that `wsss eval` chose, give from:EVAL.json") from None
    return background, {"rule": str(background), "chosen_on": "given"}


def _read_chosen_background(path: Path) -> tuple[Background, dict[str, Any]]:
    try:
        chosen = json.loads(path.read_text())["background"]
        background = Background(chosen["rule"], (float(chosen["value"]),))
    except FileNotFoundError:
        raise MissingInput("does not exist", "Make it with `wsss eval RUN --json`", where=str(path)) from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise BadData("holds no background that `wsss eval` chose", "Make it with `wsss eval RUN --json`",
                      where=str(path)) from None
    recorded = {"rule": str(background), "chosen_on": chosen.get("chosen_on", "given")}
    return background, {**recorded, **{name: chosen[name] for name in ("index", "truth") if name in chosen}}
