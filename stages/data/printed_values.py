"""Read lists and dictionaries as programs print them into a cell: JSON, Python and numpy, with or without quotes.

Nothing is evaluated: strings are the only values with escapes, and their literals are read one by one.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

SEPARATORS = ",;|/、，；｜／،؛\n"
_CLOSING = {"[": "]", "(": ")", "{": "}"}
# What Python and its libraries print around a list: set(), array([...], dtype=object), np.array(...), Index([...]).
_CALL = re.compile(r"(?:(?:np|numpy|pd|pandas)\.)?(?:array|list|set|frozenset|tuple|dict|Index|Series)\s*(?=\()")
_DTYPE = re.compile(r"\s*(?:dtype|name|length)\s*=\s*[^,()\[\]]+")
_STRING = re.compile(r"(?:(?:np|numpy)\.str_\(\s*)?[urb]?(?P<literal>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")",
                     re.DOTALL)
_WORD_END = re.compile("[" + re.escape(SEPARATORS) + r"\[\]{}()]")
_KEY_END = re.compile("[" + re.escape(SEPARATORS) + r"\[\]{}()]|:(?=\s|[-+.\d]|true|false|null|None|True|False|nan)")
_CONSTANTS = {"None": None, "null": None, "nan": None, "True": True, "False": False, "true": True, "false": False}
_MAX_DEPTH = 20


class PrintedValueError(ValueError):
    """The text is not a printed list or dictionary; the message is a clause that says why."""


def is_printed_value(text: str) -> bool:
    """Return whether a cell begins or ends like a printed list or dictionary; it may be broken."""
    return text[:1] in ("[", "{") or text[-1:] in ("]", "}") or bool(_CALL.match(text)) or _is_tuple(text)


def parse_printed_value(text: str) -> Any:
    """Return the list, dictionary, text or number that a cell prints; names without quotes are texts.

    Tuples and sets become lists. Raises PrintedValueError.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        reader = _Reader(text)
    if text[:1] not in _CLOSING and not _CALL.match(text):
        raise PrintedValueError("its first bracket is missing")
    value = reader.read_value(0)
    reader.skip_blanks()
    if reader.position < len(text):
        raise PrintedValueError(f"{text[reader.position:][:20]!r} follows its end")
    return value


def _is_tuple(text: str) -> bool:
    """Return whether a text is a tuple: parentheses around quotes or several names, and not just around a word."""
    if text == "()" or re.match(r"\(\s*['\"]", text):
        return True
    return text[:1] == "(" and text[-1:] == ")" and "(" not in text[1:] and "," in text


class _Reader:
    """Reads one value after another from a text."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def skip_blanks(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1

    def peek(self) -> str:
        return self.text[self.position:self.position + 1]

    def read_value(self, depth: int, *, is_key: bool = False) -> Any:
        """Read the value at the position: a list, a dictionary, a string or a word."""
        if depth > _MAX_DEPTH:
            raise PrintedValueError("it is nested too deeply")
        self.skip_blanks()
        call = _CALL.match(self.text, self.position)
        if call:
            self.position = call.end()
            values = self.read_items(depth)
            return values[0] if len(values) == 1 and isinstance(values[0], (list, dict)) else values
        if self.peek() in _CLOSING:
            return self.read_items(depth)
        string = _STRING.match(self.text, self.position)
        if string:
            self.position = string.end()
            if "str_(" in string[0]:
                self.skip_blanks()
                self.position += self.peek() == ")"
            return _read_literal(string["literal"])
        return self.read_word(is_key=is_key)

    def read_items(self, depth: int) -> list[Any] | dict[str, Any]:
        """Read the items between brackets. Between quoted strings, blanks separate too, as numpy prints them."""
        opening = self.peek()
        self.position += 1
        items: list[Any] = []
        pairs: dict[str, Any] = {}
        needs_separator = False
        while not self._skip_closing(opening):
            if self.peek() in SEPARATORS:
                self.position, needs_separator = self.position + 1, False
            elif opening == "(" and (dtype := _DTYPE.match(self.text, self.position)):
                self.position = dtype.end()
            else:
                self._check_separated(needs_separator)
                self._read_item(items, pairs, depth, is_dictionary=opening == "{")
                needs_separator = True
        if items and pairs:
            raise PrintedValueError("some of its entries have a value and others have none")
        return pairs or items

    def _skip_closing(self, opening: str) -> bool:
        """Skip blanks, and the closing bracket if it follows; return whether it did."""
        self.skip_blanks()
        closing = _CLOSING[opening]
        if not self.peek():
            raise PrintedValueError(f"{closing!r} is missing at its end")
        if self.peek() == closing:
            self.position += 1
            return True
        if self.peek() in ")]}":
            raise PrintedValueError(f"{self.peek()!r} closes what {opening!r} opened")
        return False

    def _check_separated(self, needs_separator: bool) -> None:
        if needs_separator and not (self.peek() in "'\"[" or self.text.startswith("np.str_", self.position)):
            raise PrintedValueError(f"a separator is missing before {self.text[self.position:][:20]!r}")

    def _read_item(self, items: list[Any], pairs: dict[str, Any], depth: int, *, is_dictionary: bool) -> None:
        """Read one item and add it to `items`, or with its value to `pairs` if a colon follows."""
        value = self.read_value(depth + 1, is_key=is_dictionary)
        self.skip_blanks()
        if self.peek() == ":" and is_dictionary and not isinstance(value, (list, dict)):
            self.position += 1
            pairs[str(value)] = self.read_value(depth + 1)
        else:
            items.append(value)

    def read_word(self, *, is_key: bool = False) -> str | bool | None:
        """Read a word without quotes, up to a separator or a bracket; a key of a dictionary also ends at its colon."""
        end = (_KEY_END if is_key else _WORD_END).search(self.text, self.position)
        word = self.text[self.position:end.start() if end else len(self.text)]
        self.position += len(word)
        word = word.strip()
        if not word:
            raise PrintedValueError(f"a name is missing before {self.text[self.position:][:20]!r}")
        if word in ("...", "…"):
            raise PrintedValueError("it was shortened with '...' when it was printed")
        return _CONSTANTS.get(word, word)


def _read_literal(literal: str) -> str:
    if "\\" not in literal:
        return literal[1:-1]
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError):
        return literal[1:-1]

