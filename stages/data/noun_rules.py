"""Find the nouns of an English caption by rules: word lists, endings, and the neighbouring words. No data are needed.

Captions are plain: short, about things, in the present tense. So a word that is in no list and does not end like an
adjective, adverb or verb is a noun, and words that can be both are decided by number: "hikers rest", but "bus stop".
The rules are for captions only: in other texts far more words are verbs. `tests/data/test_nouns.py` measures how well
they do. In another language every word would be a noun: words in another script are never nouns here, and
`count_function_words` helps to decide whether a text is English.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

_WORDS_FILE = Path(__file__).parent / "words" / "english.txt"
_TOKEN = re.compile(r"[^\W_]*\d[^\W_]*|[^\W\d_]+(?:[-’'][^\W\d_]+)*|[^\w\s]")
_POSSESSIVE = re.compile(r"[’']s?$")
# Endings of words that are not nouns, and the list of the exceptions.
_ENDINGS = {"ing": "noun_in_ing", "ed": "noun_in_ed", "ly": "noun_in_ly", "ous": "", "less": "",
            "ful": "noun_in_ful", "ive": "noun_in_ive", "able": "noun_in_able", "ible": "noun_in_able",
            "ish": "noun_in_ish"}
_SINGULAR_ENDINGS = ("ss", "us", "is")
_MIN_LENGTH_WITH_ENDING = 5
# Most shorter function words also exist in other languages: German "in" and "an", Spanish "a" and "no", Italian "i".
_MIN_ENGLISH_LENGTH, _SHORT_ENGLISH_WORDS = 3, frozenset(("at", "by", "is", "it", "of", "to"))
_NOUN, _OTHER, _PUNCTUATION = "noun", "other", "end"


def find_nouns_by_rules(caption: str) -> tuple[str, ...]:
    """Return the distinct nouns of a caption in lower case, in order of appearance. The result is deterministic."""
    words = [_POSSESSIVE.sub("", token).lower() for token in _TOKEN.findall(caption)]
    kinds: list[str] = []
    for index in range(len(words)):
        kinds.append(_classify_word(words, kinds, index))
    return tuple(dict.fromkeys(word for word, kind in zip(words, kinds, strict=True) if kind == _NOUN))


def is_latin(word: str) -> bool:
    """Return whether all letters of a word are in the Latin script."""
    return word.isascii() or all("LATIN" in unicodedata.name(letter, "LATIN") for letter in word if letter.isalpha())


def count_function_words(caption: str) -> tuple[int, int]:
    """Count (the words in Latin letters, those of them that are English function words such as "the") of a caption.

    In English captions at least 21 of a hundred words are such function words; in Dutch, German, French, Spanish,
    Italian and Portuguese ones at most 5 are.
    """
    words = [token.lower() for token in _TOKEN.findall(caption) if token[:1].isalpha() and is_latin(token)]
    function_words = _load_word_lists()["function"]
    return len(words), sum(
        word in _SHORT_ENGLISH_WORDS or (len(word) >= _MIN_ENGLISH_LENGTH and word in function_words) for word in words
    )


@lru_cache(maxsize=1)
def _load_word_lists() -> dict[str, frozenset[str]]:
    lists: dict[str, set[str]] = {}
    for line in _WORDS_FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            words = lists.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            words.update(line.split())
    lists["verb"] |= {_build_third_person(word) for word in lists["verb"]}
    return {name: frozenset(words) for name, words in lists.items()}


def _build_third_person(verb: str) -> str:
    if verb.endswith(("s", "sh", "ch", "x", "z")):
        return verb + "es"
    return verb[:-1] + "ies" if verb.endswith("y") and verb[-2] not in "aeiou" else verb + "s"


def _classify_word(words: list[str], kinds: list[str], index: int) -> str:
    """Return the kind of a word, given the kinds of the words before it."""
    lists, word = _load_word_lists(), words[index]
    previous, following = _get_neighbours(words, index)
    if any(letter.isdigit() for letter in word) or not is_latin(word):
        return _OTHER
    if not word[:1].isalpha():
        return _PUNCTUATION
    if len(word) == 1 or word in lists["function"]:
        return _OTHER
    if following == "of" and (previous, word) in (("in", "front"), ("on", "top")):
        return _OTHER
    if word in lists["sometimes_noun"]:
        return _OTHER if _can_be_head_noun(following) else _NOUN
    if any(word in lists[name] for name in ("adjective", "past", "adverb", "verb")):
        return _OTHER
    if _is_verb(words, kinds, index) or (_has_other_ending(word) or ("-" in word and _can_be_head_noun(following))):
        return _OTHER
    if word in lists["noun_in_ing"] and (previous in lists["be"] or _takes_object(kinds, index, following)):
        return _OTHER
    return _NOUN


def _get_neighbours(words: list[str], index: int) -> tuple[str, str]:
    """Return the words before and after a word, empty at the ends of the caption."""
    return words[index - 1] if index else "", words[index + 1] if index + 1 < len(words) else ""


def _can_be_head_noun(following: str) -> bool:
    """Return whether the following word can be the noun that the current word modifies."""
    lists = _load_word_lists()
    excluded_lists = ("function", "verb", "past", "adverb", "be")
    if not following[:1].isalpha() or any(following in lists[name] for name in excluded_lists):
        return False
    return not (following.endswith(("ing", "ed")) and _has_other_ending(following))


def _is_verb(words: list[str], kinds: list[str], index: int) -> bool:
    """Return whether a word that can be a verb is one here: after "to", or after a subject."""
    lists, word = _load_word_lists(), words[index]
    previous, following = _get_neighbours(words, index)
    has_subject = kinds[index - 1:index] == [_NOUN] or previous in lists["pronoun"] or previous in lists["adverb"]
    has_object = following in lists["determiner"]
    if _find_base_form(word, "mostly_noun") is not None:
        return has_object and (has_subject or previous == "to")
    base_form = _find_base_form(word, "sometimes_verb")
    if base_form is None:
        return False
    if previous in ("to", "and") and word == base_form:
        return (previous == "to" and kinds[index - 2:index - 1] != [_NOUN]) or has_object
    if not has_subject or has_object:
        return has_subject
    # "Hikers rest" and "a man rests", but "bus stop". "A vase of tulips stands": so a plural is weaker evidence.
    is_plural = previous in lists["plural"] or (previous.endswith("s") and not previous.endswith(_SINGULAR_ENDINGS))
    return word != base_form or previous in lists["pronoun"] or (is_plural and not _can_be_head_noun(following))


def _find_base_form(word: str, list_name: str) -> str | None:
    """Return the base form of a word if that is in the list, else None."""
    verbs = _load_word_lists()[list_name]
    if word in verbs:
        return word
    return next((verb for verb in (word[:-1], word[:-2], word[:-3] + "y")
                 if verb in verbs and _build_third_person(verb) == word), None)


def _has_other_ending(word: str) -> bool:
    """Return whether a word ends like an adjective, adverb or verb and is not an exception."""
    lists, last_part = _load_word_lists(), word.rsplit("-", 1)[-1]
    for ending, list_name in _ENDINGS.items():
        if last_part.endswith(ending) and len(last_part) >= _MIN_LENGTH_WITH_ENDING:
            exceptions = lists[list_name] if list_name else frozenset()
            return last_part not in exceptions
    return last_part in lists["past"] and last_part != word


def _takes_object(kinds: list[str], index: int, following: str) -> bool:
    """Return whether a word in -ing is between a noun and a determiner: "kids painting a wall"."""
    return kinds[index - 1:index] == [_NOUN] and following in _load_word_lists()["determiner"]
