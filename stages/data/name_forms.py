"""The written form of names: invisible characters, blanks, quotes, letter case and Unicode normalisation."""

from __future__ import annotations

import functools
import re
import unicodedata

# Joiners (200C, 200D) are part of words in some scripts and of emoji, so they stay inside a name.
_INVISIBLE = re.compile("[\ufeff\u200b\u2060\u00ad\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_JOINERS = re.compile("[\u200c\u200d]")
_QUOTES = ("''", '""', "‘’", "“”", "„“", "‚‘", "«»", "‹›", "``", "「」", "『』")


# Tables repeat their names in every row, so each form is computed once.
_remember = functools.lru_cache(maxsize=1 << 14)


@_remember
def clean_name(text: str) -> str:
    """Return a name without invisible characters and outer blanks; every run of blanks inside becomes one blank."""
    return " ".join(_INVISIBLE.sub("", text).split()).strip("\u200c\u200d ")


def strip_quotes(name: str) -> str:
    """Return a clean name without the pair of quotes around it, if there is one."""
    if len(name) > 1 and name[0] + name[-1] in _QUOTES:
        return clean_name(name[1:-1])
    return name


@_remember
def fold_name(name: str) -> str:
    """Return the key by which names are compared: names that differ in case or normalisation have the same key."""
    folded = unicodedata.normalize("NFC", _JOINERS.sub("", clean_name(name))).casefold()
    return unicodedata.normalize("NFC", folded)
