"""Reads `--config recipe.toml`: a section per stage and method, keys spelled as the options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput, UsageError


def section(path: str, stage: str, known: set[str]) -> dict[str, Any]:
    """Return the settings of `[stage.method]` (or `[stage]`) by field name.

    Raises MissingInput, BadData (no TOML), UsageError (an option that the command does not have).
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        found: Any = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MissingInput("is not there", where=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadData(f"is no TOML ({error})", where=path) from None
    for name in stage.split():
        found = found.get(name, {})
        if not isinstance(found, dict):
            raise UsageError(f"{name} is a value, not a section", f"write [{stage.replace(' ', '.')}]", where=path)
    settings = {key.replace("-", "_"): value for key, value in found.items() if not isinstance(value, dict)}
    unknown = sorted(set(settings) - known)
    if unknown:
        raise UsageError(f"[{stage.replace(' ', '.')}] has no setting {unknown[0]!r}", "see --help", where=path)
    return settings
