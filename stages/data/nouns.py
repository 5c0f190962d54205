"""Select the nouns of captions: with NLTK's tagger, by rules, or from a file.

CoDe selects nouns with NLTK's part-of-speech tagger. The tagger's data are not part of the package and are not
downloaded here. Without them the built-in rules are used, which are as good on captions. The choice is reported and
recorded in the provenance.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.data.noun_rules import find_nouns_by_rules, is_latin
from stages.data.tables import TableRow, read_table
from stages.data.tag_parsing import TagParser
from stages.errors import BadData, Unavailable

NOUN_SELECTORS = ("auto", "nltk", "rules", "file")
NLTK_TAGGER_PATH = "taggers/averaged_perceptron_tagger_eng"
_NOUN_COLUMNS = ("nouns", "noun")
_NOUN_TAGS = ("NN", "NNS", "NNP", "NNPS")
# Words about the image itself rather than its content.
_PICTURE_WORDS = frozenset((
    "image", "images", "photo", "photos", "photograph", "photographs", "photography", "picture", "pictures", "pic",
    "stock", "background", "illustration", "vector", "clipart", "shot", "closeup", "close-up", "view"))
_MARKUP = re.compile(r"<[^<>]*>")
# CC12M replaces names of people by <PERSON>. That is often the subject of the sentence: without a subject "rides" would
# be a noun in "<PERSON> rides a horse".
_PERSON, _SUBJECT = re.compile(r"<person>", re.IGNORECASE), " she"
_SENTENCE_END = re.compile(r"[.!?]+(?:\s+|(?=[A-Z])|$)")


@dataclass(frozen=True)
class NounSelector:
    """Selects the nouns of captions; `name` is nltk, rules or file, `notes` are messages for the user."""

    name: str
    find_nouns: Callable[[str, str], Sequence[str]]
    picture_words: bool = False
    notes: tuple[str, ...] = ()
    provenance_inputs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_english_only(self) -> bool:
        """Return whether the nouns of captions in other languages would be wrong."""
        return self.name != "file"

    def select_nouns(self, item_id: str, caption: str) -> tuple[str, ...]:
        """Return the distinct nouns of an image's caption in lower case, sorted so that random draws are reproducible.

        Single letters, markup such as <PERSON> and, without `picture_words`, words such as photo are dropped.
        """
        nouns = {" ".join(word.lower().split()) for word in self.find_nouns(item_id, caption)}
        nouns = {noun for noun in nouns if len(noun) > 1 and any(letter.isalpha() for letter in noun)}
        return tuple(sorted(nouns if self.picture_words else nouns - _PICTURE_WORDS))


def build_noun_selector(name: str, table: str | None = None, *, picture_words: bool = False) -> NounSelector:
    """Build the selector `auto|nltk|rules|file`; auto is NLTK if its data are on this machine, else the rules.

    `table` is for file: columns id and nouns, and caption if images have several. Raises Unavailable for nltk without
    its data, and the errors of reading the table.
    """
    if name == "file":
        return _build_file_selector(Path(table or ""), picture_words)
    tagger = None if name == "rules" else _load_nltk_tagger(is_required=name == "nltk")
    if tagger is None:
        note = "Finding nouns with the built-in rules."
        if name == "auto":
            note = ("Finding nouns with the built-in rules, because NLTK's tagger is not on this machine. `wsss setup "
                    "nltk` installs it.")
        return NounSelector("rules", lambda _, caption: find_nouns_by_rules(_remove_markup(caption)), picture_words,
                            (note,), {"selector": "rules"})
    import nltk

    return NounSelector("nltk", lambda _, caption: _find_nouns_by_tagger(caption, tagger), picture_words,
                        (f"Finding nouns with the tagger of NLTK {nltk.__version__}.",),
                        {"selector": "nltk", "nltk": nltk.__version__})


def _build_file_selector(path: Path, picture_words: bool) -> NounSelector:
    nouns = _read_noun_table(path)

    def find_nouns(item_id: str, caption: str) -> tuple[str, ...]:
        return nouns.get((item_id, _normalise_caption(caption)), nouns.get((item_id, ""), ()))

    digest = hashlib.sha256(repr(sorted(nouns.items())).encode()).hexdigest()
    return NounSelector("file", find_nouns, picture_words, (f"Reading nouns from {path}.",),
                        {"selector": "file", "nouns": digest})


def _load_nltk_tagger(*, is_required: bool) -> Any:
    """Load NLTK's tagger. Without its data return None, or raise Unavailable if it is required."""
    import nltk
    from nltk.tag import PerceptronTagger

    try:
        path = nltk.data.find(NLTK_TAGGER_PATH)
    except LookupError:
        if not is_required:
            return None
        folders = ", ".join(list(dict.fromkeys(map(str, nltk.data.path)))[:3])
        raise Unavailable(f"NLTK's tagger {NLTK_TAGGER_PATH.rpartition('/')[2]} is in none of {folders}, ...",
                          "Download averaged_perceptron_tagger_eng.zip and run `wsss setup nltk --from FILE`, or use "
                          "--nouns rules") from None
    try:
        return PerceptronTagger()
    # A file may be missing, not be JSON, or be JSON of something else; each raises a different exception.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0][:80]
        raise Unavailable(f"NLTK's tagger in {path} can't be read ({reason})", "Install it again with `wsss setup nltk "
                          "--from FILE --force`, or use --nouns rules") from None


def _remove_markup(caption: str) -> str:
    """Return a caption without markup, with a pronoun instead of <PERSON>."""
    return _MARKUP.sub(" ", _PERSON.sub(_SUBJECT, caption))


def _find_nouns_by_tagger(caption: str, tagger: Any) -> list[str]:
    """Return the words of a caption that NLTK tags as nouns, except words in another script, which it always does."""
    from nltk.tokenize import NLTKWordTokenizer

    # The tokenizer separates only the last full stop of a text, so each sentence is passed on its own. This avoids
    # the need for NLTK's punkt data.
    sentences = [sentence for sentence in _SENTENCE_END.split(_remove_markup(caption)) if sentence.strip()]
    tagged = [pair for sentence in sentences for pair in tagger.tag(NLTKWordTokenizer().tokenize(sentence))]
    return [word for word, tag in tagged if tag in _NOUN_TAGS and is_latin(word)]


def _read_noun_table(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    """Read nouns by (id, caption) from a table; the caption is empty if the table has none."""
    nouns: dict[tuple[str, str], tuple[str, ...]] = {}
    table = read_table(path, reads_tags=False)
    for row in table.rows:
        if row.get_cell(_NOUN_COLUMNS) is None or "id" not in row.fields:
            raise BadData("the column id or nouns is missing", "Name the columns id, nouns and, if images have several "
                          "captions, caption", where=table.locate(row))
        captions = row.list_captions(table.locate(row)) or ("",)
        nouns[row.fields["id"], _normalise_caption(captions[0])] = _split_nouns(row, table.locate(row))
    return nouns


def _split_nouns(row: TableRow, where: str) -> tuple[str, ...]:
    """Return the nouns of a row, which may be separated by blanks alone, since a noun is one word."""
    cell = row.get_cell(_NOUN_COLUMNS)
    names = TagParser().list_names(cell, where) or []
    return tuple(names[0].split() if len(names) == 1 and isinstance(cell, str) else names)


def _normalise_caption(caption: str) -> str:
    return " ".join(caption.split()).lower()
