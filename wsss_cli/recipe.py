"""Read `--config recipe.toml`: one section per stage and method, with keys named as the options."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from stages.errors import BadData, MissingInput, UsageError


def read_section(path: str, stage: str, option_names: set[str]) -> dict[str, Any]:
    """Return the settings of `[stage.method]` (`[stage]` for a command without methods) by field name.

    Raise MissingInput, BadData (not TOML) or UsageError (a setting that the command does not have).
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        section: Any = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise MissingInput("does not exist", "Check the path given to --config", where=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadData(f"is not valid TOML ({error})", "Correct the file", where=path) from None
    heading = f"[{stage.replace(' ', '.')}]"
    for name in stage.split():
        section = section.get(name, {})
        if not isinstance(section, dict):
            raise UsageError(f"{name} is a value, not a section", f"Write {heading}", where=path)
    settings = {key.replace("-", "_"): value for key, value in section.items() if not isinstance(value, dict)}
    unknown = sorted(set(settings) - option_names)
    if unknown:
        raise UsageError(f"{heading} has no setting {unknown[0]!r}", f"`wsss {stage} --help` lists all settings",
                         where=path)
    return settings
