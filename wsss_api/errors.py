"""Errors of the Python interface that are also the built-in exceptions which Python programmers expect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from stages.errors import MissingInput, UsageError


class UnknownId(MissingInput, KeyError):
    """A run has no image of this id; also a KeyError."""


class UnknownSetting(UsageError, TypeError):
    """A function has no setting of this name; also a TypeError."""


def suggest_similar(name: str, names: Iterable[str], noun: str) -> str:
    """Return a remedy for an unknown name: a similar one, or some of those that exist."""
    known = list(names)
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if matches:
        return f"Did you mean {matches[0]!r}?"
    more = f", ... ({len(known)} in all)" if len(known) > 8 else ""
    return f"The {noun} are {', '.join(known[:8]) or 'none'}{more}"
