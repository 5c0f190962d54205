"""`--background` as the user writes it, also `from:EVAL.json`, and as the provenance records it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput, UsageError
from stages.kernels.background import Background, parse_background


def resolve_background(text: str) -> tuple[Background, dict[str, Any]]:
    """Return the rule and what is recorded of it (rule, chosen_on, and the index for `from:`).

    Raises UsageError, MissingInput, BadData.
    """
    if text.startswith("from:"):
        return _from_eval(Path(text.removeprefix("from:")))
    try:
        background = parse_background(text)
    except ValueError as error:
        raise UsageError(f"--background {error}", "or from:EVAL.json") from None
    return background, {"rule": str(background), "chosen_on": "given"}


def _from_eval(path: Path) -> tuple[Background, dict[str, Any]]:
    try:
        chosen = json.loads(path.read_text())["background"]
        background = Background(chosen["rule"], (float(chosen["value"]),))
    except FileNotFoundError:
        raise MissingInput("is not there", "make it with wsss eval --json", where=str(path)) from None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise BadData("holds no background that wsss eval chose", "make it with wsss eval RUN --json",
                      where=str(path)) from None
    recorded = {"rule": str(background), "chosen_on": chosen.get("chosen_on", "given")}
    return background, {**recorded, "index": chosen["index"]} if "index" in chosen else recorded
