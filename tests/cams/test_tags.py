"""Which classes of an image get a map."""

from __future__ import annotations

import numpy as np
import pytest

from stages.cams.tags import choose, parse_tags
from stages.errors import BadData, UsageError

SCORES = np.array([0.2, 0.5, 0.9], np.float32)


@pytest.mark.parametrize(("text", "parsed"), [
    ("index", ("index", 0.0)), ("all", ("all", 0.0)), ("predicted:0.5", ("predicted", 0.5)),
    ("predicted:0", ("predicted", 0.0)), ("predicted:1", ("predicted", 1.0))])
def test_what_can_be_asked_for(text, parsed):
    assert parse_tags(text) == parsed


@pytest.mark.parametrize("text", [
    "", "predicted", "predicted:", "predicted:x", "predicted:2", "predicted:-1", "predicted:nan", "all:1", "index:",
    "index:0.5", "All"])
def test_what_can_not(text):
    with pytest.raises(UsageError, match="--tags"):
        parse_tags(text)


@pytest.mark.parametrize(("rule", "threshold", "labels", "chosen"), [
    ("index", 0.0, (3, 1), [1, 3]), ("index", 0.0, (), []), ("predicted", 0.5, (1,), [2, 3]),
    ("predicted", 0.95, None, []), ("all", 0.0, None, [1, 2, 3])])
def test_class_ids(rule, threshold, labels, chosen):
    found = choose(rule, threshold, labels, SCORES)
    assert found.tolist() == chosen
    assert found.dtype == np.uint16


def test_unknown_tags_are_refused_with_the_way_out():
    with pytest.raises(BadData, match=r"no tags.*--tags predicted"):
        choose("index", 0.0, None, SCORES)
