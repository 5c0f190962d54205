"""Selection of the classes that get a CAM."""

from __future__ import annotations

import numpy as np
import pytest

from stages.cams.class_selection import parse_tags, select_class_ids
from stages.errors import BadData, UsageError

SCORES = np.array([0.2, 0.5, 0.9], np.float32)


@pytest.mark.parametrize(("text", "parsed"), [
    ("index", ("index", 0.0)), ("all", ("all", 0.0)), ("predicted:0.5", ("predicted", 0.5)),
    ("predicted:0", ("predicted", 0.0)), ("predicted:1", ("predicted", 1.0))])
def test_parse_tags(text, parsed):
    assert parse_tags(text) == parsed


@pytest.mark.parametrize("text", [
    "", "predicted", "predicted:", "predicted:x", "predicted:2", "predicted:-1", "predicted:nan", "all:1", "index:",
    "index:0.5", "All"])
def test_invalid_tags_raise(text):
    with pytest.raises(UsageError, match="--tags"):
        parse_tags(text)


@pytest.mark.parametrize(("rule", "threshold", "labels", "expected"), [
    ("index", 0.0, (3, 1), [1, 3]), ("index", 0.0, (), []), ("predicted", 0.5, (1,), [2, 3]),
    ("predicted", 0.95, None, []), ("all", 0.0, None, [1, 2, 3])])
def test_select_class_ids(rule, threshold, labels, expected):
    class_ids = select_class_ids(rule, threshold, labels, SCORES)
    assert class_ids.tolist() == expected
    assert class_ids.dtype == np.uint16


def test_missing_tags_error_names_the_option():
    with pytest.raises(BadData, match=r"no tags.*--tags predicted"):
        select_class_ids("index", 0.0, None, SCORES)
