"""The parser of tags: any list of names, printed in any style, is read back; what it interprets is counted."""

from __future__ import annotations

import csv
import io
import json
import random

import numpy as np
import pytest

from stages.data.name_forms import clean_name, fold_name, strip_quotes
from stages.data.printed_values import PrintedValueError, parse_printed_value
from stages.data.tag_classes import collect_class_names
from stages.data.tag_parsing import TagParser
from stages.errors import BadData

POOL = ("dog", "cat", "potted plant", "traffic light", "Caf\u00e9", "\u732b", "it's", 'a "b"', "x_1", "T-shirt", "c++",
        "\u00df", "back\\slash", "50%", "R&B", "a.b", "\U0001f600")
# What needs quotes: names with separators, brackets and colons.
DIFFICULT = ("salt, pepper", "car/truck", "a;b", "x|y", "[z]", "{w}", "(v)", "a:b", "...")
QUOTING = {
    "JSON": json.dumps, "JSON, not ASCII": lambda names: json.dumps(names, ensure_ascii=False),
    "indented JSON": lambda names: json.dumps(names, indent=2), "list": repr, "tuple": lambda names: repr(tuple(names)),
    "numpy str": lambda names: str(np.array(names)), "numpy repr": lambda names: repr(np.array(names)),
    "numpy objects": lambda names: repr(np.array(names, dtype=object)),
    "numpy scalars": lambda names: repr([np.str_(name) for name in names]),
    "set": lambda names: repr(dict.fromkeys(names)).replace(": None", "") if names else "set()",
    "scores": lambda names: json.dumps(dict.fromkeys(names, 0.5)),
    "Python scores": lambda names: repr(dict.fromkeys(names, 1)),
    "objects": lambda names: json.dumps([{"name": name, "score": 0.1} for name in names]),
    "nested": lambda names: repr([[name] for name in names])}
MARKS = (";", ", ", " | ", "，", "、", "；", ";\u00a0", "\n")
PLAIN = {mark: (lambda names, mark=mark: mark.join(names)) for mark in MARKS}
PLAIN["list without quotes"] = lambda names: f"[{', '.join(names)}]"
PLAIN["trailing"] = lambda names: "; ".join(names) + ";"


def draw_lists(pool: tuple[str, ...], count: int) -> list[list[str]]:
    source = random.Random(0)
    return [source.sample(pool, source.randint(1, 5)) for _ in range(count)]


@pytest.mark.parametrize("style", QUOTING)
def test_quoted_lists_are_read_back(style):
    for names in [[], *draw_lists(POOL + DIFFICULT, 60)]:
        cell = QUOTING[style](names)
        assert TagParser().parse_cell(cell, "t:1") == tuple(names), cell


@pytest.mark.parametrize("style", PLAIN)
def test_plain_lists_are_read_back(style):
    for names in draw_lists(POOL[:6] + POOL[8:12], 60):
        cell = PLAIN[style](names)
        assert TagParser().parse_cell(cell, "t:1") == tuple(names), cell


@pytest.mark.parametrize("separator", [";", ",", "|", "/"])
def test_difficult_names_between_separators_are_read_if_they_are_classes(separator):
    classes = ("background", *POOL[:6], "salt, pepper", "car/truck", "a;b", "x|y")
    for names in draw_lists(classes[1:], 60):
        cell = separator.join(names)
        assert TagParser(classes).parse_cell(cell, "t:1") == tuple(names), cell


def test_lists_survive_a_csv_file():
    for names in draw_lists(POOL + DIFFICULT, 30):
        stream = io.StringIO()
        csv.writer(stream).writerow(["id", repr(names)])
        cell = next(csv.reader(io.StringIO(stream.getvalue())))[1]
        assert TagParser().parse_cell(cell, "t:1") == tuple(names)


@pytest.mark.parametrize("text", ["['dog'", "['dog', ", "{'dog': ", "[dog)", "['dog'] x", "['dog', ...]", "[[[",
                                  "{'a': 1, 'b'}", "dog]", "[a [b]", "['a' b]"])
def test_broken_lists_are_rejected(text):
    with pytest.raises(PrintedValueError):
        parse_printed_value(text)
    with pytest.raises(BadData, match=r"^t:7: "):
        TagParser().parse_cell(text, "t:7")


def test_every_prefix_of_a_list_is_rejected():
    for cell in ("['dog', 'cat']", '["dog", "cat"]', "['dog' 'cat']", "{'dog': 0.5}", "[dog, cat]"):
        for length in range(1, len(cell)):
            with pytest.raises(BadData):
                TagParser().parse_cell(cell[:length], "t:1")


def test_classes_of_a_table_are_collected():
    cells = [("dog;cat", "t:2"), ("Dog", "t:3"), ("dog", "t:4"), ("potted plant", "t:5"), ("dog cat", "t:6"),
             (["x, y"], "t:7"), ("background", "t:8"), (None, "t:9"), ("nan", "t:10")]
    classes, notes = collect_class_names(cells)
    assert classes == ("background", "cat", "dog", "potted plant", "x, y")
    assert notes == ("'dog' and 'Dog' are one class, 'dog'.",)
    parser = TagParser(classes)
    assert [parser.parse_cell(*cell) for cell in cells[3:]] == [
        ("potted plant",), ("dog", "cat"), ("x, y",), (), None, None]


def test_forms_of_names():
    assert clean_name(" \ufeffa\u00a0 b\u200b\u00ad ") == "a b" and clean_name("\u200b") == ""
    assert strip_quotes("'a'") == "a" and strip_quotes("it's") == "it's" and strip_quotes("'") == "'"
    assert fold_name("CAFE\u0301") == fold_name("caf\u00e9") and fold_name("STRASSE") == fold_name("stra\u00dfe")
    assert fold_name("a") != fold_name("\u00e4")
