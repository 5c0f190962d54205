"""The nouns of an English caption by rules: lists of words, endings, and the words on both sides. No data is needed.

Captions are plain: short, about things, in the present. So what is in no list and has no ending of an adjective,
adverb or verb is a noun, and words that can be both are told by number: "hikers rest", but "bus stop". The rules are
for captions only: in other texts far more words are verbs. `tests/data/test_nouns.py` has their score. In another
language every word would be a noun: words of another script are none here, and `function_words` tells by how many
words a text seems to be English.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from pathlib import Path

_WORDS = Path(__file__).parent / "words" / "english.txt"
_TOKEN = re.compile(r"[^\W_]*\d[^\W_]*|[^\W\d_]+(?:[-’'][^\W\d_]+)*|[^\w\s]")
_POSSESSIVE = re.compile(r"[’']s?$")
# Endings of words that are no nouns, and the list of those that are.
_ENDINGS = {"ing": "noun_in_ing", "ed": "noun_in_ed", "ly": "noun_in_ly", "ous": "", "less": "",
            "ful": "noun_in_ful", "ive": "noun_in_ive", "able": "noun_in_able", "ible": "noun_in_able",
            "ish": "noun_in_ish"}
_SINGULAR_ENDINGS = ("ss", "us", "is")
_SHORTEST = 5
# Shorter ones are words of other languages too: German "in" and "an", Spanish "a" and "no", Italian "i".
_SURELY_ENGLISH, _SHORT_AND_ENGLISH = 3, frozenset(("at", "by", "is", "it", "of", "to"))
_NOUN, _OTHER, _END = "noun", "other", "end"


def nouns_by_rules(caption: str) -> tuple[str, ...]:
    """Return the nouns of a caption in small letters, in their order, each once. The same caption gives the same."""
    words = [_POSSESSIVE.sub("", token).lower() for token in _TOKEN.findall(caption)]
    kinds: list[str] = []
    for place in range(len(words)):
        kinds.append(_kind(words, kinds, place))
    return tuple(dict.fromkeys(word for word, kind in zip(words, kinds, strict=True) if kind == _NOUN))


def is_latin(word: str) -> bool:
    """Say whether no letter of a word is of another script than the Latin one."""
    return word.isascii() or all("LATIN" in unicodedata.name(letter, "LATIN") for letter in word if letter.isalpha())


def function_words(caption: str) -> tuple[int, int]:
    """Return (words in Latin letters, those that are English function words such as "the") of a caption.

    Of a hundred words of English captions 21 or more are such, of Dutch, German, French, Spanish, Italian and
    Portuguese ones 5 or fewer.
    """
    words = [token.lower() for token in _TOKEN.findall(caption) if token[:1].isalpha() and is_latin(token)]
    known = _lists()["function"]
    return len(words), sum(word in _SHORT_AND_ENGLISH or (len(word) >= _SURELY_ENGLISH and word in known)
                           for word in words)


@lru_cache(maxsize=1)
def _lists() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for line in _WORDS.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            words = found.setdefault(line.strip("[]"), set())
        elif not line.startswith("#"):
            words.update(line.split())
    found["verb"] |= {_third_person(word) for word in found["verb"]}
    return {name: frozenset(words) for name, words in found.items()}


def _third_person(verb: str) -> str:
    if verb.endswith(("s", "sh", "ch", "x", "z")):
        return verb + "es"
    return verb[:-1] + "ies" if verb.endswith("y") and verb[-2] not in "aeiou" else verb + "s"


def _kind(words: list[str], kinds: list[str], place: int) -> str:
    """Return what a word is, given what those before it are."""
    lists, word = _lists(), words[place]
    before, after = words[place - 1] if place else "", words[place + 1] if place + 1 < len(words) else ""
    if any(letter.isdigit() for letter in word) or not is_latin(word):
        return _OTHER
    if not word[:1].isalpha():
        return _END
    if len(word) == 1 or word in lists["function"]:
        return _OTHER
    if after == "of" and (before, word) in (("in", "front"), ("on", "top")):
        return _OTHER
    if word in lists["sometimes_noun"]:
        return _OTHER if _opens_a_noun(after) else _NOUN
    if any(word in lists[name] for name in ("adjective", "past", "adverb", "verb")):
        return _OTHER
    if _is_verb_here(words, kinds, place) or (_has_other_ending(word) or ("-" in word and _opens_a_noun(after))):
        return _OTHER
    if word in lists["noun_in_ing"] and (before in lists["be"] or _takes_an_object(kinds, place, after)):
        return _OTHER
    return _NOUN


def _opens_a_noun(after: str) -> bool:
    """Say whether the next word may be the head that this one stands before."""
    lists = _lists()
    stops = ("function", "verb", "past", "adverb", "be")
    if not after[:1].isalpha() or any(after in lists[name] for name in stops):
        return False
    return not (after.endswith(("ing", "ed")) and _has_other_ending(after))


def _is_verb_here(words: list[str], kinds: list[str], place: int) -> bool:
    """Say whether a word that can be a verb is one: behind "to", or behind a subject."""
    lists, word = _lists(), words[place]
    before, after = words[place - 1] if place else "", words[place + 1] if place + 1 < len(words) else ""
    subject = kinds[place - 1:place] == [_NOUN] or before in lists["pronoun"] or before in lists["adverb"]
    has_object = after in lists["determiner"]
    if _base(word, "mostly_noun") is not None:
        return has_object and (subject or before == "to")
    plain = _base(word, "sometimes_verb")
    if plain is None:
        return False
    if before in ("to", "and") and word == plain:
        return (before == "to" and kinds[place - 2:place - 1] != [_NOUN]) or has_object
    if not subject or has_object:
        return subject
    # "Hikers rest" and "a man rests", but "bus stop"; a vase of tulips stands, so that plurals say less.
    is_plural = before in lists["plural"] or (before.endswith("s") and not before.endswith(_SINGULAR_ENDINGS))
    return word != plain or before in lists["pronoun"] or (is_plural and not _opens_a_noun(after))


def _base(word: str, name: str) -> str | None:
    """Return the plain form of a word whose plain form is in a list; None for any other."""
    verbs = _lists()[name]
    if word in verbs:
        return word
    return next((verb for verb in (word[:-1], word[:-2], word[:-3] + "y")
                 if verb in verbs and _third_person(verb) == word), None)


def _has_other_ending(word: str) -> bool:
    lists, last = _lists(), word.rsplit("-", 1)[-1]
    for ending, exceptions in _ENDINGS.items():
        if last.endswith(ending) and len(last) >= _SHORTEST:
            plain = lists[exceptions] if exceptions else frozenset()
            return last not in plain
    return last in lists["past"] and last != word


def _takes_an_object(kinds: list[str], place: int, after: str) -> bool:
    """Say whether a word in -ing stands between a noun and an article: "kids painting a wall"."""
    return kinds[place - 1:place] == [_NOUN] and after in _lists()["determiner"]
