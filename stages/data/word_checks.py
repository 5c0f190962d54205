"""Check that the words of several classes distinguish them.

CLIP reads words in lower case with single blanks. Two classes with the same words have the same scores in every pixel,
and whichever comes first gets all of them: that is an error. Words that only some classes share, and words that differ
in number, hyphens or blanks alone, are a warning: where they have the highest score, the choice between the classes is
arbitrary, or nearly so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence

from stages.errors import UsageError

_MAX_LISTED = 5  # words or classes named in one message
_MIN_SINGULAR_LENGTH = 2  # letters of a word that can have a plural


def normalise_spelling(word: str) -> str:
    """Return a word as CLIP reads it: in lower case, with single blanks and straight quotes."""
    plain = unicodedata.normalize("NFKC", word).replace("\u2019", "'").replace("\u2018", "'")
    return " ".join(plain.lower().split())


def find_singular(word: str, candidates: Collection[str]) -> str:
    """Return the word of `candidates` whose plural is `word`, else `word`; both without blanks and punctuation."""
    singulars = [word.removesuffix(ending) + singular for ending, singular in (("s", ""), ("es", ""), ("ies", "y"))
                 if word.endswith(ending)]
    return next((singular for singular in singulars if len(singular) >= _MIN_SINGULAR_LENGTH
                 and singular in candidates), word)


def _remove_punctuation(word: str) -> str:
    """Return the letters and digits of a word, or the word if it has none."""
    return re.sub(r"[\W_]+", "", normalise_spelling(word)) or normalise_spelling(word)


def drop_repeated_words(
    names: Sequence[str], classes: Sequence[Sequence[str]]
) -> tuple[tuple[tuple[str, ...], ...], list[str]]:
    """Return the words of each class without repetitions, and a warning for each class that had any."""
    unique = [_drop_repeated(words) for words in classes]
    warnings = [f"Class {name} has the same word twice; it is used once: {', '.join(_find_repeated(words))}."
                for name, words, unique_words in zip(names, classes, unique, strict=True)
                if len(unique_words) < len(words)]
    return tuple(unique), warnings


def filter_background_words(
    background: Sequence[str], names: Sequence[str], classes: Sequence[Sequence[str]]
) -> tuple[tuple[str, ...], list[str]]:
    """Return the background words that are not words of a class, and a warning that lists the others."""
    class_words = {normalise_spelling(word).replace(" ", "") for words in (names, *classes) for word in words}
    dropped = [word for word in background if normalise_spelling(word).replace(" ", "") in class_words]
    warnings = [f"Dropped background words that are also words of classes: {', '.join(dropped)}."] if dropped else []
    return tuple(word for word in background if word not in dropped), warnings


def check_class_words(names: Sequence[str], classes: Sequence[Sequence[str]], where: str, remedy: str) -> list[str]:
    """Return a warning for each word that several classes share, exactly or nearly.

    Raises UsageError with `remedy` if two classes have the same words.
    """
    name_by_words: dict[frozenset[str], str] = {}
    for name, words in zip(names, classes, strict=True):
        key = frozenset(map(normalise_spelling, words))
        if key in name_by_words:
            raise UsageError(f"the classes {name_by_words[key]!r} and {name!r} have the same words "
                             f"({', '.join(words[:_MAX_LISTED])}), so CLIP scores them equally everywhere",
                             remedy, where=where)
        name_by_words[key] = name
    return [*_warn_of_shared_words(names, classes), *_warn_of_class_names_as_words(names, classes)]


def _warn_of_shared_words(names: Sequence[str], classes: Sequence[Sequence[str]]) -> list[str]:
    """Return warnings about words that several classes have, also in another number or with other blanks."""
    word_by_class: dict[str, dict[str, str]] = {}
    all_words = {_remove_punctuation(word) for words in classes for word in words}
    for name, words in zip(names, classes, strict=True):
        for word in words:
            singular = find_singular(_remove_punctuation(word), all_words)
            word_by_class.setdefault(singular, {}).setdefault(name, word)
    warnings = []
    for spelling_by_class in word_by_class.values():
        if len(spelling_by_class) < 2:
            continue
        class_list = " and ".join(list(spelling_by_class)[:_MAX_LISTED])
        spellings = dict.fromkeys(map(normalise_spelling, spelling_by_class.values()))
        if len(spellings) == 1:
            warnings.append(f"Classes {class_list} share the word {next(iter(spellings))!r}: where it has the highest "
                            "score, they tie and the first class wins.")
        else:
            warnings.append(f"Classes {class_list} have nearly the same word "
                            f"({', '.join(spelling_by_class.values())}). Check that they are meant to be different "
                            "classes.")
    return warnings


def _warn_of_class_names_as_words(names: Sequence[str], classes: Sequence[Sequence[str]]) -> list[str]:
    """Return warnings about classes that have the name of another class as a word, which that class does not have."""
    class_by_name = {normalise_spelling(name): (name, set(map(normalise_spelling, words)))
                     for name, words in zip(names, classes, strict=True)}
    warnings = []
    for name, words in zip(names, classes, strict=True):
        for word in words:
            spelling = normalise_spelling(word)
            other_name, other_words = class_by_name.get(spelling, (name, set()))
            if other_name != name and spelling not in other_words:
                warnings.append(f"Class {name} has the word {word!r}, which is the name of another class with other "
                                "words.")
    return warnings


def _drop_repeated(words: Sequence[str]) -> tuple[str, ...]:
    word_by_spelling: dict[str, str] = {}
    for word in words:
        word_by_spelling.setdefault(normalise_spelling(word), word)
    return tuple(word_by_spelling.values())


def _find_repeated(words: Sequence[str]) -> list[str]:
    spellings = list(map(normalise_spelling, words))
    return [spelling for spelling in dict.fromkeys(spellings) if spellings.count(spelling) > 1]
