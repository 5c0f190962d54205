"""Words that a user types for the classes: `--words "cat; dog; wet grass = grass, lawn"`, or a file of them."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from stages.data.class_words import ClassWords, class_words, read_words, words_alone
from stages.data.noun_rules import is_latin
from stages.data.tables import written_lines
from stages.data.word_checks import compare_classes, drop_from_background, drop_repeats
from stages.errors import BadData, MissingInput, UsageError

MOST = 65534
BACKGROUND = "background"
_OTHER_WORDS = "make them one class, or give one of them other words: NAME = WORD, WORD"


def free_words(told: str, classes: tuple[str, ...] | None = None, *, background: str = "sclip-voc") -> ClassWords:
    """Return the classes and words of `told`: FILE.toml, a file with one class a line, or the classes themselves.

    Classes are separated by ';' or '|', else by ','. One is a phrase, which is its name and its word, or NAME = WORD,
    WORD. The class `background` is the words of the background; without it they are those of the preset `background`.
    With the `classes` of an index (position 0 is the background) a FILE.toml is about those, and a list that names them
    all, in whatever order, keeps their order. Words that classes share get a note. Raises UsageError, also for two
    classes with the same words, MissingInput, BadData.
    """
    if told.lower().endswith(".toml"):
        return words_alone(told) if classes is None else class_words(told, classes)
    where, entries = _entries(told)
    found: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        name, words = _entry(entry, where)
        if name.lower() == BACKGROUND:
            name = BACKGROUND
        if name in found:
            raise UsageError(f"{where}: {name!r} stands there twice", "name each class once")
        found[name] = words
    kept = found.pop(BACKGROUND, None)
    if not found:
        raise UsageError(f"{where}: holds no class" if entries else f"{where}: holds no word",
                         'give for example --words "cat; dog; grass"')
    if len(found) > MOST:
        raise UsageError(f"{where}: {len(found)} classes, masks hold {MOST}", "give fewer")
    names = tuple(found)
    if classes is not None and set(names) == set(classes[1:]):
        names = classes[1:]
    return _made(names, found, kept, background, where)


def other_scripts(words: ClassWords) -> list[str]:
    """Return the words that have letters of another script than the Latin one."""
    every = [word for several in words.classes for word in several]
    return [word for word in dict.fromkeys(every) if not is_latin(word)]


def _made(names: tuple[str, ...], found: dict[str, tuple[str, ...]], kept: tuple[str, ...] | None, background: str,
          where: str) -> ClassWords:
    words, repeats = drop_repeats(names, [found[name] for name in names])
    notes = [f"{len(names)} classes: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}"]
    is_own = kept is not None
    kept, dropped = drop_from_background(_preset_background(background) if kept is None else kept, names, words)
    # The preset's words are only a default: that some of them are classes here is no news.
    warnings = [*repeats, *compare_classes(names, words, where, _OTHER_WORDS), *(dropped if is_own else ())]
    return ClassWords(where, names, words, kept, (*notes, *warnings))


def _preset_background(preset: str) -> tuple[str, ...]:
    return read_words(Path(__file__).parent / "words" / f"{preset}.toml")[1]


def _entries(told: str) -> tuple[str, list[str]]:
    """Return what to call the place, and its entries."""
    # A path can't be as long as a list of words; asking the system for one that long is an error.
    if len(told.encode()) < 255 and "\0" not in told and Path(told).is_file():
        return told, [line for _, line in written_lines(Path(told)) if not line.startswith("#")]
    if re.search(r"\.(txt|csv|tsv|names|json)$", told.strip(), re.IGNORECASE):
        raise MissingInput("no such file of words", "check the path", where=told)
    separator = next((one for one in (";", "|", "\n") if one in told), "," if "=" not in told else ";")
    return "--words", [part.strip() for part in told.split(separator) if part.strip()]


def _entry(entry: str, where: str) -> tuple[str, tuple[str, ...]]:
    name, given, words = entry.partition("=")
    name = " ".join(name.split())
    several = tuple(" ".join(word.split()) for word in words.split(",")) if given else (name,)
    for word in (name, *several):
        if not any(unicodedata.category(letter)[0] in "LNS" for letter in word):
            raise BadData(f"{word!r} in {entry!r} has no letter", "write NAME, or NAME = WORD, WORD", where=where)
    if any("\0" in word for word in (name, *several)):
        raise BadData(f"{entry!r} holds a NUL", where=where)
    return name, several
