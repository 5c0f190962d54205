"""The one parser of tags: a cell of a table, a value of a JSON file or a name of an annotation becomes class names.

A cell may hold one name, names between separators, a list or dictionary as programs print it, or a JSON value. What the
parser had to interpret, such as letter case, it counts for the notes to the user.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from stages.data.name_forms import clean_name, fold_name, strip_quotes
from stages.data.printed_values import SEPARATORS, PrintedValueError, is_printed_value, parse_printed_value
from stages.errors import BadData

# Names of the background, and of pixels that belong to no class, in class lists and tags.
BACKGROUND_NAMES = ("background", "_background_", "__background__", "bg")
IGNORED_NAMES = ("void", "__ignore__", "_ignore_")
# Cells that say that the tags of an image are not known. An empty cell says that the image shows none of the classes.
NULL_WORDS = ("nan", "none", "null", "na", "n/a", "<na>", "#n/a", "nil", "nat", "-", "–", "—")
_NAME_KEYS = ("name", "label", "class", "category", "tag", "class_name", "category_name", "value")
_SCORE_KEYS = ("score", "confidence", "probability", "prob")
# Separators of one kind may be mixed: "，" is the comma of a Chinese keyboard.
KIND_OF_SEPARATOR = {**dict.fromkeys(";；؛", ";"), **dict.fromkeys(",，、،", ","), **dict.fromkeys("|｜", "|"),
                      **dict.fromkeys("/／", "/"), "\n": "line break"}
_SPLIT = re.compile(r"\s*([" + re.escape(SEPARATORS) + r"])\s*")
_BLANKS = re.compile(r"[^\S\n]+")
_QUOTED = re.compile(r"\s*('[^']*'|\"[^\"]*\"|“[^”]*”)\s*(?=$|['\"“" + re.escape(SEPARATORS) + "])")
_NUMBER = r"[-+]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][-+]?\d{1,3})?%?"
_SCORE = re.compile(rf"(?P<name>.*\S)\s*[:：]\s*(?P<score>{_NUMBER}|[a-zA-Z]{{2,5}})")
_SCORE_PAIR = re.compile(rf"[^:：]*[^:：\s]\s*[:：]\s*{_NUMBER}(?=\s|$)")
_SCORES = re.compile(rf"\s*{_SCORE_PAIR.pattern}(?:\s+{_SCORE_PAIR.pattern})+\s*")
_FLAGS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "nan": 0.0, "none": 0.0, "null": 0.0}
_REMEDY = 'Write the names between semicolons, such as "dog;potted plant"'


class TagParser:
    """Reads tags. `classes` are the class names (position 0: background); without them any name is a tag.

    Notes are collected while cells are read; `list_notes` returns them.
    """

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.has_classes = len(classes) > 1
        self._background = classes[0] if classes else ""
        self._class_by_key = {_get_class_key(name): name for name in classes if name}
        # Longer texts are no class, whatever their case and normalisation; most cells with several tags are longer.
        self._max_length = 3 * max(map(len, self._class_by_key), default=0)
        self._max_pieces = 1 + max((len(_SPLIT.findall(key)) for key in self._class_by_key), default=0)
        self._max_words = max((len(key.split()) for key in self._class_by_key), default=1)
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, str] = {}

    def find_class(self, name: str) -> str | None:
        """Return the class that a name means, in any letter case and Unicode normalisation, or None."""
        return self._class_by_key.get(_get_class_key(name)) if len(name) <= self._max_length else None

    def parse_name(self, name: str) -> str | None:
        """Return the class of a single name, or the name itself if it is no class; None for the background."""
        name = clean_name(name)
        match = self.find_class(name)
        if match is None:
            return None if is_background(name) else name
        if match == self._background:
            return None
        if match != name and fold_name(match) == fold_name(name):
            self._count("spelling", f"{name!r} for {match!r}")
        return match

    def parse_cell(self, cell: Any, where: str) -> tuple[str, ...] | None:
        """Return the tags of a cell without duplicates; None if the cell says that they are unknown.

        Names that are no class are returned as they are; the background is dropped. Raises BadData with `where` for a
        broken list and for values that are no tags.
        """
        names = self.list_names(cell, where)
        return None if names is None else self.convert_names(names)

    def convert_names(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the tags of the names of an image, without duplicates and background; see `parse_name`."""
        tags = (self.parse_name(name) for name in names)
        return tuple(dict.fromkeys(tag for tag in tags if tag is not None))

    def list_names(self, cell: Any, where: str) -> list[str] | None:
        """Return the names in a cell as they are written there; otherwise like `parse_cell`."""
        names = self._parse_text(cell, where) if isinstance(cell, str) else self._flatten(cell, where)
        self._check_not_indicators(names or (), cell, where)
        return names

    def list_notes(self) -> tuple[str, ...]:
        """Return sentences on what was interpreted: letter case, scores, separators."""
        sentences = {
            "spelling": "{} from {} class only in letter case or Unicode form and {} read as that class, for example "
                        "{}.",
            "scores": "{} a score; scores are not used, except that 0 or false means that the class is absent, for "
                      "example {}.",
            "blanks": "{} split at blanks, because every word is a class, for example {}.",
            "slash": "{} split at '/', for example {}. If this is one class, list it with --class-names.",
        }
        forms = {"spelling": (("tag differs", "its", "was"), ("tags differ", "their", "were")),
                 "scores": (("tag has",), ("tags have",)), "blanks": (("cell was",), ("cells were",)),
                 "slash": (("cell was",), ("cells were",))}
        notes = []
        for kind, sentence in sentences.items():
            count = self._counts[kind]
            if count:
                words = forms[kind][count > 1]
                notes.append(sentence.format(f"{count} {words[0]}", *words[1:], self._examples[kind]))
        return tuple(notes)

    def _count(self, kind: str, example: str) -> None:
        self._counts[kind] += 1
        self._examples.setdefault(kind, example)

    def _parse_text(self, cell: str, where: str) -> list[str] | None:
        text = clean_name(cell)
        if not text:
            return []
        if self.find_class(text):
            return [text]
        if text.casefold() in NULL_WORDS:
            return None
        if is_printed_value(text):
            # Line breaks count between the items of a list, so the cell is not cleaned here.
            try:
                value = parse_printed_value(cell.strip("\ufeff\u200b \t\r\n\u00a0"))
            except PrintedValueError as error:
                raise BadData(f"the tags {shorten(text)!r} look like a list, but {error}", _REMEDY,
                              where=where) from error
            return self._flatten(value, where)
        return self._split(_BLANKS.sub(" ", cell), where)

    def _flatten(self, value: Any, where: str) -> list[str] | None:
        """Return the names of a JSON value: a text, a number, a list or a dictionary; None if it is null."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, bool):
            raise BadData(f"the value {str(value).lower()} is not a tag", _REMEDY, where=where)
        if isinstance(value, (int, float)):
            return [str(int(value)) if isinstance(value, int) or value.is_integer() else str(value)]
        if isinstance(value, str):
            return self._convert_item(value, where)
        if isinstance(value, dict):
            return self._read_dictionary(value, where)
        if isinstance(value, (list, tuple, set, frozenset)):
            lists = [self._flatten(item, where) for item in value]
            if lists and all(names is None for names in lists):
                return None
            return [name for names in lists for name in names or ()]
        raise BadData(f"the value {shorten(str(value))!r} is not a tag", _REMEDY, where=where)

    def _convert_item(self, item: str, where: str) -> list[str] | None:
        """Return the names of an item of a list: a separator in it is part of the name, but it may have a score."""
        name = strip_quotes(clean_name(item))
        if not name:
            return []
        if name.casefold() in NULL_WORDS and not self.find_class(name):
            return None
        if self.find_class(name):
            return [name]
        return self._split_score(name, where) if _SCORE.fullmatch(name) else self._split_blanks(name)

    def _read_dictionary(self, value: dict[Any, Any], where: str) -> list[str]:
        """Return the names of {"dog": 0.9}, or of an object with a name such as {"name": "dog", "score": 0.9}."""
        keys = {str(key).casefold(): item for key, item in value.items()}
        named = [key for key in _NAME_KEYS if isinstance(keys.get(key), str)]
        if named:
            score = next((keys[key] for key in _SCORE_KEYS if key in keys), 1)
            if score != 1:
                self._count("scores", f"{keys[named[0]]!r}")
            return (self._convert_item(keys[named[0]], where) or []) if self._is_present(score, named[0], where) else []
        names = []
        for name, score in value.items():
            is_present = self._is_present(score, str(name), where)
            self._count("scores", f"{str(name)!r}")
            names += [str(name)] if is_present else []
        return names

    def _split(self, cell: str, where: str) -> list[str]:
        """Split a cell at its separators, except inside quotes and in names of classes that contain them."""
        pieces, separators = split_pieces(cell)
        if not separators and _SCORES.fullmatch(pieces[0]):
            pieces = [match[0] for match in _SCORE_PAIR.finditer(pieces[0])]
            separators = [";"] * (len(pieces) - 1)
        kinds = {KIND_OF_SEPARATOR[separator] for separator in separators}
        names: list[str] = []
        position = 0
        while position < len(pieces):
            end = self._find_longest_class(pieces, separators, position)
            piece = strip_quotes(clean_name(_join(pieces, separators, position, end)))
            position = end
            if not piece or (piece.casefold() in NULL_WORDS and not self.find_class(piece)):
                continue
            if self.find_class(piece):
                names.append(piece)
            elif _SCORE.fullmatch(piece):
                names += self._split_score(piece, where)
            else:
                names += [piece] if kinds else self._split_blanks(piece)
        if len(kinds) > 1:
            self._check_mixed(names, kinds, cell, where)
        if kinds == {"/"} and len(names) > 1:
            self._count("slash", repr(clean_name(cell)))
        return names

    def _check_mixed(self, names: Sequence[str], kinds: set[str], cell: str, where: str) -> None:
        """Raise BadData for separators of several kinds, unless every name between them is a class."""
        unknown = [name for name in names if not (self.find_class(name) or is_background(name))]
        if unknown:
            raise BadData(f"the tags {shorten(clean_name(cell))!r} mix the separators {' and '.join(sorted(kinds))}, "
                          f"and {unknown[0]!r} is not a class",
                          "Use one separator, or list the classes with --class-names", where=where)

    def _find_longest_class(self, pieces: Sequence[str], separators: Sequence[str], start: int) -> int:
        """Return the end of the longest run of pieces that is a class, such as "salt, pepper", else of one piece."""
        for end in range(min(len(pieces), start + self._max_pieces), start + 1, -1):
            if self.find_class(_join(pieces, separators, start, end)):
                return end
        return start + 1

    def _split_score(self, piece: str, where: str) -> list[str]:
        """Return the name before a score, or nothing if the score says that the class is absent."""
        match = _SCORE.fullmatch(piece)
        assert match is not None
        score = match["score"]
        if score[0].isalpha() and score.casefold() not in _FLAGS:
            return [piece]
        self._count("scores", repr(piece))
        name = strip_quotes(match["name"])
        return [name] if self._is_present(score, name, where) else []

    def _is_present(self, score: Any, name: str, where: str) -> bool:
        """Return whether a score says that a class is present: any score above 0. Raises BadData for other values."""
        if score is None or isinstance(score, bool):
            return bool(score)
        try:
            value = _FLAGS[score.casefold()] if isinstance(score, str) and score.casefold() in _FLAGS else (
                float(score.rstrip("%")) if isinstance(score, str) else float(score))
        except (TypeError, ValueError, OverflowError):
            value = -1.0
        if math.isnan(value):
            return False
        if value < 0 or math.isinf(value):
            raise BadData(f"the value {shorten(str(score))!r} of {name!r} is not a score of at least 0",
                          'Write names only, such as "dog;cat", or scores such as "dog:0.9"', where=where)
        return value > 0

    def _split_blanks(self, text: str) -> list[str]:
        """Split a text at blanks if every resulting word is a class; the longest class wins. Else it is one name."""
        words, names = text.split(), []
        while words:
            lengths = range(min(len(words), self._max_words), 0, -1)
            length = next((length for length in lengths if self.find_class(" ".join(words[:length]))), 0)
            if not length:
                return [text]
            names.append(" ".join(words[:length]))
            words = words[length:]
        if len(names) > 1:
            self._count("blanks", repr(text))
        return names

    def _check_not_indicators(self, names: Sequence[str], cell: Any, where: str) -> None:
        """Raise BadData for a vector such as [0, 1, 0]: its classes are given by positions, which are not known."""
        digits = names[0].split() if len(names) == 1 else names
        if len(digits) > 2 and set(digits) <= {"0", "1"} and not all(self.find_class(name) for name in names):
            raise BadData(f"the tags {shorten(str(cell))!r} are zeros and ones, which do not say the classes",
                          "Write names, or one column per class with the name of the class in the first line",
                          where=where)


def is_background(name: str) -> bool:
    """Return whether a name means the background or pixels without a class."""
    return fold_name(name) in (*BACKGROUND_NAMES, *IGNORED_NAMES)


def split_pieces(cell: str) -> tuple[list[str], list[str]]:
    """Split a cell at every separator outside quotes; return (the n pieces, the n - 1 separators between them)."""
    pieces, separators, position = [], [], 0
    while True:
        quoted = _QUOTED.match(cell, position)
        start = quoted.end() if quoted else position
        separator = _SPLIT.search(cell, start)
        if quoted and start < len(cell) and (separator is None or separator.start() > start):
            pieces.append(quoted[1])  # another quoted name follows without a separator
            separators.append(";")
            position = start
            continue
        if separator is None:
            return [*pieces, cell[position:]], separators
        pieces.append(cell[position:separator.start()])
        separators.append(separator[1])
        position = separator.end()


def _join(pieces: Sequence[str], separators: Sequence[str], start: int, end: int) -> str:
    """Return the text of the pieces from `start` to `end`, with their separators."""
    return "".join(piece + separator for piece, separator in
                   zip(pieces[start:end], [*separators[start:end - 1], ""], strict=True))


@functools.lru_cache(maxsize=1 << 14)
def _get_class_key(name: str) -> str:
    """Return the key of a name among classes, without blanks around separators: "salt,pepper" is "salt, pepper"."""
    return _SPLIT.sub(r"\1", fold_name(name))


def shorten(text: str, length: int = 60) -> str:
    """Return at most `length` characters of a text, for a message."""
    return text if len(text) <= length else text[:length] + "..."
