"""Renders the Makefile and the README of `wsss init`."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

_TEMPLATES = Path(__file__).with_name("templates")
_PLAIN = re.compile(r"[A-Za-z0-9_./+,@-]+")


def render_template(name: str, values: Mapping[str, Any]) -> str:
    """Return a template of this stage with its values filled in; a value that is missing is an error."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=False)
    return environment.from_string((_TEMPLATES / name).read_text(encoding="utf-8")).render(values)


def quote_for_make(text: str) -> str:
    """Return a word of the shell that a variable of make can hold."""
    return shlex.quote(text).replace("$", "$$").replace("#", "\\#")


def is_prerequisite(text: str) -> bool:
    """Return whether make can depend on the file `text`: it has no blanks, and no characters with a meaning."""
    return _PLAIN.fullmatch(text) is not None
