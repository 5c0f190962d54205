"""Which nouns a caption has: by NLTK's tagger, by rules, or as a file says.

CoDe selects nouns with NLTK's part-of-speech tagger. Its data are not part of the package, and nothing is fetched
here: without them the rules do, which are no worse on captions. Which of them it was is told, and recorded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.data.noun_rules import is_latin, nouns_by_rules
from stages.data.tables import CAPTION_COLUMNS, read_table, split_tags
from stages.errors import BadData, Unavailable

SELECTORS = ("auto", "nltk", "rules", "file")
TAGGER = "taggers/averaged_perceptron_tagger_eng"
_NOUN_COLUMNS = ("nouns", "noun")
_NOUN_TAGS = ("NN", "NNS", "NNP", "NNPS")
# What captions say of the picture itself, and the names by which CC12M hides people's.
_PICTURE_WORDS = frozenset((
    "image", "images", "photo", "photos", "photograph", "photographs", "photography", "picture", "pictures", "pic",
    "stock", "background", "illustration", "vector", "clipart", "shot", "closeup", "close-up", "view"))
_MARKUP = re.compile(r"<[^<>]*>")
# CC12M's <PERSON> is the subject of its sentence: without one "rides" would be a noun in "<PERSON> rides a horse".
_PERSON, _SUBJECT = re.compile(r"<person>", re.IGNORECASE), " she"
_SENTENCE = re.compile(r"[.!?]+(?:\s+|(?=[A-Z])|$)")


@dataclass(frozen=True)
class NounSelector:
    """Finds the nouns of captions; `name` nltk, rules or file, `notes` are for the user, `recorded` for provenance."""

    name: str
    find: Callable[[str, str], Sequence[str]]
    picture_words: bool = False
    notes: tuple[str, ...] = ()
    recorded: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_for_english(self) -> bool:
        """Say whether captions of another language get wrong nouns."""
        return self.name != "file"

    def nouns(self, item_id: str, caption: str) -> tuple[str, ...]:
        """Return the distinct nouns of an image's caption in small letters, sorted: drawing is then reproducible.

        Single letters, markup such as <PERSON> and, without `picture_words`, words such as photo are left out.
        """
        found = {" ".join(word.lower().split()) for word in self.find(item_id, caption)}
        found = {word for word in found if len(word) > 1 and any(letter.isalpha() for letter in word)}
        return tuple(sorted(found if self.picture_words else found - _PICTURE_WORDS))


def noun_selector(name: str, table: str | None = None, *, picture_words: bool = False) -> NounSelector:
    """Return the selector `auto|nltk|rules|file`; auto is NLTK where its data are there, else the rules.

    `table` is for file: columns id and nouns, and caption where an image has several. Raises Unavailable for nltk
    without its data, and what reading the table raises.
    """
    if name == "file":
        known = _table(Path(table or ""))
        recorded = {"selector": "file", "nouns": hashlib.sha256(repr(sorted(known.items())).encode()).hexdigest()}
        return NounSelector("file", lambda item_id, caption: known.get((item_id, _plain(caption)),
                                                                       known.get((item_id, ""), ())), picture_words,
                            (f"nouns: {table}",), recorded)
    tagger = None if name == "rules" else _nltk(needed=name == "nltk")
    if tagger is None:
        notes = ("nouns: the built-in rules",)
        if name == "auto":
            notes = ("nouns: the built-in rules, for NLTK's tagger is not on this machine (wsss setup nltk)",)
        return NounSelector("rules", lambda _, caption: nouns_by_rules(_sentence(caption)), picture_words, notes,
                            {"selector": "rules"})
    import nltk

    return NounSelector("nltk", lambda _, caption: _nouns_by_tags(caption, tagger), picture_words,
                        (f"nouns: NLTK {nltk.__version__}",), {"selector": "nltk", "nltk": nltk.__version__})


def _nltk(*, needed: bool) -> Any:
    """Return NLTK's tagger; None, or Unavailable where it is needed, when its data are not there."""
    import nltk
    from nltk.tag import PerceptronTagger

    try:
        place = nltk.data.find(TAGGER)
    except LookupError:
        if not needed:
            return None
        folders = ", ".join(list(dict.fromkeys(map(str, nltk.data.path)))[:3])
        raise Unavailable(f"NLTK's tagger {TAGGER.rpartition('/')[2]} is in none of {folders}, ...",
                          "bring averaged_perceptron_tagger_eng.zip and run wsss setup nltk --from FILE, or give "
                          "--nouns rules") from None
    try:
        return PerceptronTagger()
    # A file may lack, or hold no JSON, or JSON of something else, and each raises its own.
    except Exception as error:
        raise Unavailable(f"NLTK's tagger in {place} can't be read ({str(error).strip().partition(chr(10))[0][:80]})",
                          "put it there anew (wsss setup nltk --from FILE --force), or give --nouns rules") from None


def _sentence(caption: str) -> str:
    """Return a caption without markup, a pronoun in the place of <PERSON>."""
    return _MARKUP.sub(" ", _PERSON.sub(_SUBJECT, caption))


def _nouns_by_tags(caption: str, tagger: Any) -> list[str]:
    """Return the words of a caption that NLTK tags as nouns; it calls those of another script so too, which we don't.
    """
    from nltk.tokenize import NLTKWordTokenizer

    # The tokenizer splits only the last full stop of a text off, so sentences go one by one: no punkt is needed.
    sentences = [part for part in _SENTENCE.split(_sentence(caption)) if part.strip()]
    tagged = [pair for part in sentences for pair in tagger.tag(NLTKWordTokenizer().tokenize(part))]
    return [word for word, tag in tagged if tag in _NOUN_TAGS and is_latin(word)]


def _table(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return nouns by (id, caption), the caption empty where the table has none."""
    known: dict[tuple[str, str], tuple[str, ...]] = {}
    for row in read_table(path):
        cell, caption = row.cell(_NOUN_COLUMNS), row.cell(CAPTION_COLUMNS)
        if cell is None or "id" not in row.fields:
            raise BadData("lacks a column id or nouns", "give the columns id, nouns and, if need be, caption",
                          where=f"{path}:{row.line}")
        known[str(row.fields["id"]), _plain(str(caption or ""))] = tuple(split_tags(cell))
    return known


def _plain(caption: str) -> str:
    return " ".join(caption.split()).lower()
