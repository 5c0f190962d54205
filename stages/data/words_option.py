"""Parse the words that a user types for the classes: `--words "cat; dog; wet grass = grass, lawn"`, or a file."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from stages.data.class_vocabulary import ClassWords, load_class_words, load_words_without_index, read_words_file
from stages.data.noun_rules import is_latin
from stages.data.tables import read_nonblank_lines
from stages.data.word_checks import check_class_words, drop_repeated_words, filter_background_words
from stages.errors import BadData, MissingInput, UsageError

MAX_CLASSES = 65534
BACKGROUND_NAME = "background"
_MAX_LISTED_CLASSES = 8
_SAME_WORDS_REMEDY = "Merge them into one class, or give one of them other words: NAME = WORD, WORD"
_WORDS_REMEDY = 'Use for example --words "cat; dog; grass"'


def parse_words_option(
    text: str, classes: tuple[str, ...] | None = None, *, background: str = "sclip-voc"
) -> ClassWords:
    """Parse `text`: the name of a FILE.toml, of a file with one class per line, or the classes themselves.

    Classes are separated by ';' or '|', else by ','. A class is a phrase, which is its name and its only word, or
    NAME = WORD, WORD. The words of the class `background` are the background words; without it they are those of the
    preset `background`. With the `classes` of an index (position 0 is the background), a FILE.toml applies to these,
    and a list that names all of them, in any order, keeps their order. Words that classes share get a note. Raises
    UsageError (also for two classes with the same words), MissingInput and BadData.
    """
    if text.lower().endswith(".toml"):
        return load_words_without_index(text) if classes is None else load_class_words(text, classes)
    where, entries = _read_entries(text)
    words_by_class: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        name, words = _parse_entry(entry, where)
        if name.lower() == BACKGROUND_NAME:
            name = BACKGROUND_NAME
        if name in words_by_class:
            raise UsageError(f"the class {name!r} is named twice", "Name each class once", where=where)
        words_by_class[name] = words
    background_words = words_by_class.pop(BACKGROUND_NAME, None)
    if not words_by_class:
        raise UsageError(f"there is no {'class besides the background' if entries else 'word'}", _WORDS_REMEDY,
                         where=where)
    if len(words_by_class) > MAX_CLASSES:
        raise UsageError(f"there are {len(words_by_class)} classes, but masks can store {MAX_CLASSES}",
                         "Use fewer classes", where=where)
    names = tuple(words_by_class)
    if classes is not None and set(names) == set(classes[1:]):
        names = classes[1:]
    return _build_class_words(names, words_by_class, background_words, background, where)


def find_non_latin_words(words: ClassWords) -> list[str]:
    """Return the words of the classes that have letters in another script than Latin."""
    all_words = [word for class_words in words.classes for word in class_words]
    return [word for word in dict.fromkeys(all_words) if not is_latin(word)]


def _build_class_words(names: tuple[str, ...], words_by_class: dict[str, tuple[str, ...]],
                       background_words: tuple[str, ...] | None, preset: str, where: str) -> ClassWords:
    """Check the words and add notes; without `background_words` use those of `preset`."""
    words, repeats = drop_repeated_words(names, [words_by_class[name] for name in names])
    more = ", ..." if len(names) > _MAX_LISTED_CLASSES else ""
    plural = "es" if len(names) > 1 else ""
    note = f"Found {len(names)} class{plural} in {where}: {', '.join(names[:_MAX_LISTED_CLASSES])}{more}."
    has_own_background = background_words is not None
    if background_words is None:
        background_words = _read_background_words(preset)
    background_words, dropped = filter_background_words(background_words, names, words)
    # The words of the preset are only a default, so no warning is needed if some of them are classes here.
    warnings = [*repeats, *check_class_words(names, words, where, _SAME_WORDS_REMEDY),
                *(dropped if has_own_background else ())]
    return ClassWords(where, names, words, background_words, (note, *warnings))


def _read_background_words(preset: str) -> tuple[str, ...]:
    return read_words_file(Path(__file__).parent / "words" / f"{preset}.toml")[1]


def _read_entries(text: str) -> tuple[str, list[str]]:
    """Return the source of the entries for messages (a file or "--words"), and the entries, one per class."""
    # Paths are limited in length; asking the system for a path as long as a list of words is an error.
    if len(text.encode()) < 255 and "\0" not in text and Path(text).is_file():
        return text, [line for _, line in read_nonblank_lines(Path(text)) if not line.startswith("#")]
    if re.search(r"\.(txt|csv|tsv|names|json)$", text.strip(), re.IGNORECASE):
        raise MissingInput("there is no such file of words", "Check the path in --words", where=text)
    separator = next((mark for mark in (";", "|", "\n") if mark in text), "," if "=" not in text else ";")
    return "--words", [part.strip() for part in text.split(separator) if part.strip()]


def _parse_entry(entry: str, where: str) -> tuple[str, tuple[str, ...]]:
    """Return the name and the words of a class."""
    name, equals_sign, word_list = entry.partition("=")
    name = " ".join(name.split())
    words = tuple(" ".join(word.split()) for word in word_list.split(",")) if equals_sign else (name,)
    for word in (name, *words):
        if not any(unicodedata.category(letter)[0] in "LNS" for letter in word):
            raise BadData(f"{word!r} in {entry!r} has no letter", "Write NAME, or NAME = WORD, WORD", where=where)
    if any("\0" in word for word in (name, *words)):
        raise BadData(f"{entry!r} contains a NUL", "Remove it", where=where)
    return name, words
