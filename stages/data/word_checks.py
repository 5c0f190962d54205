"""Whether the words of several classes tell them apart.

A CLIP reads words in small letters, with single blanks. Two classes with the same words have the same scores in every
pixel, and whichever comes first gets all of them: that is an error. Words that only some classes share, and words that
differ in number, hyphens or blanks alone, are a warning: where they score best, the choice between the classes is
arbitrary, or nearly so.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence

from stages.errors import UsageError

_MOST_NAMED = 5  # of a long list
_SHORTEST = 2  # letters of a word that has a plural


def spelling(word: str) -> str:
    """Return a word as a CLIP reads it: in small letters, with single blanks and straight quotes."""
    plain = unicodedata.normalize("NFKC", word).replace("\u2019", "'").replace("\u2018", "'")
    return " ".join(plain.lower().split())


def singular_of(word: str, others: Collection[str]) -> str:
    """Return the one of `others` whose plural the word is, else the word; both without blanks and signs."""
    singulars = [word.removesuffix(ending) + singular for ending, singular in (("s", ""), ("es", ""), ("ies", "y"))
                 if word.endswith(ending)]
    return next((singular for singular in singulars if len(singular) >= _SHORTEST and singular in others), word)


def _letters(word: str) -> str:
    return re.sub(r"[\W_]+", "", spelling(word)) or spelling(word)


def drop_repeats(names: Sequence[str], classes: Sequence[Sequence[str]]) -> tuple[tuple[tuple[str, ...], ...],
                                                                                list[str]]:
    """Return the words of each class without those that it has twice, and a warning for each such class."""
    unique = [_first_of_each(words) for words in classes]
    warnings = [f"{name} has a word twice, which counts once: {', '.join(_repeated(words))}"
                for name, words, kept in zip(names, classes, unique, strict=True) if len(kept) < len(words)]
    return tuple(unique), warnings


def drop_from_background(background: Sequence[str], names: Sequence[str],
                         classes: Sequence[Sequence[str]]) -> tuple[tuple[str, ...], list[str]]:
    """Return the background words that are no class's, and a warning that names the others."""
    taken = {spelling(word).replace(" ", "") for words in (names, *classes) for word in words}
    dropped = [word for word in background if spelling(word).replace(" ", "") in taken]
    warnings = [f"background words that are also classes are left out: {', '.join(dropped)}"] if dropped else []
    return tuple(word for word in background if word not in dropped), warnings


def compare_classes(names: Sequence[str], classes: Sequence[Sequence[str]], where: str, advice: str) -> list[str]:
    """Return a warning for each word that several classes share, or nearly.

    Raises UsageError with `advice`, naming two classes that have the same words.
    """
    whole: dict[frozenset[str], str] = {}
    for name, words in zip(names, classes, strict=True):
        key = frozenset(map(spelling, words))
        if key in whole:
            raise UsageError(f"{where}: {whole[key]!r} and {name!r} are shown to CLIP as the same words "
                             f"({', '.join(words[:_MOST_NAMED])}), so that their scores are equal everywhere",
                             advice)
        whole[key] = name
    return [*_shared(names, classes), *_names_as_words(names, classes)]


def _shared(names: Sequence[str], classes: Sequence[Sequence[str]]) -> list[str]:
    """Return the warnings about words that several classes have, also in another number or with other blanks."""
    owners: dict[str, dict[str, str]] = {}
    known = {_letters(word) for words in classes for word in words}
    for name, words in zip(names, classes, strict=True):
        for word in words:
            owners.setdefault(singular_of(_letters(word), known), {}).setdefault(name, word)
    warnings = []
    for of_class in owners.values():
        if len(of_class) < 2:
            continue
        several = " and ".join(list(of_class)[:_MOST_NAMED])
        spellings = dict.fromkeys(map(spelling, of_class.values()))
        if len(spellings) == 1:
            warnings.append(f"{several} share the word {next(iter(spellings))!r}: where it scores best, they tie and "
                            "the first class wins")
        else:
            warnings.append(f"{several} have nearly the same word ({', '.join(of_class.values())}): check that they "
                            "are meant as different classes")
    return warnings


def _names_as_words(names: Sequence[str], classes: Sequence[Sequence[str]]) -> list[str]:
    """Return the warnings about classes that have another class's name as a word, which that class has not."""
    own = {spelling(name): (name, set(map(spelling, words))) for name, words in zip(names, classes, strict=True)}
    return [f"{name} has the word {word!r}, which is the name of another class with other words"
            for name, words in zip(names, classes, strict=True) for word in words
            if (other := own.get(spelling(word))) and other[0] != name and spelling(word) not in other[1]]


def _first_of_each(words: Sequence[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for word in words:
        first.setdefault(spelling(word), word)
    return tuple(first.values())


def _repeated(words: Sequence[str]) -> list[str]:
    every = list(map(spelling, words))
    return [word for word in dict.fromkeys(every) if every.count(word) > 1]
