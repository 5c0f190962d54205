"""Selection of the classes that get a CAM."""

from __future__ import annotations

import numpy as np
import pytest

from stages.cams.class_selection import (
    check_selection,
    find_class_ids,
    get_best_threshold,
    parse_tags,
    resolve_selection,
    select_class_ids,
)
from stages.cams.config import CnnConfig
from stages.errors import BadData, UsageError

SCORES = np.array([0.2, 0.5, 0.9], np.float32)


@pytest.mark.parametrize(("text", "parsed"), [
    ("index", ("index", 0.0)), ("all", ("all", 0.0)), ("predicted:0.5", ("predicted", 0.5)),
    ("predicted:0", ("predicted", 0.0)), ("predicted:1", ("predicted", 1.0)),
    ("best:0.5", ("best", 0.5))])
def test_parse_tags(text, parsed):
    assert parse_tags(text) == parsed


@pytest.mark.parametrize("text", [
    "", "predicted", "predicted:", "predicted:x", "predicted:2", "predicted:-1", "predicted:nan", "all:1", "index:",
    "index:0.5", "All", "best", "best:x", "best:1.5"])
def test_invalid_tags_raise(text):
    with pytest.raises(UsageError, match="--tags"):
        parse_tags(text)


@pytest.mark.parametrize(("rule", "threshold", "labels", "expected"), [
    ("index", 0.0, (3, 1), [1, 3]), ("index", 0.0, (), []), ("predicted", 0.5, (1,), [2, 3]),
    ("predicted", 0.95, None, []), ("all", 0.0, None, [1, 2, 3]),
    ("best", 0.5, None, [2, 3]), ("best", 0.95, (1,), [3])])
def test_select_class_ids(rule, threshold, labels, expected):
    class_ids = select_class_ids(rule, threshold, labels, SCORES)
    assert class_ids.tolist() == expected
    assert class_ids.dtype == np.uint16


def test_missing_tags_error_names_the_option():
    with pytest.raises(BadData, match=r"no tags.*--tags predicted"):
        select_class_ids("index", 0.0, None, SCORES)


CLASSES = ("background", "bird", "cat", "cow", "dining table")


def test_class_names_become_sorted_ids():
    assert find_class_ids(("cow", "bird", "cow"), CLASSES) == (1, 3)
    assert find_class_ids((), CLASSES) == ()


@pytest.mark.parametrize(("name", "message"), [
    ("Cow", r"net has no class 'Cow'\. Did you mean cow\? The classes are bird, cat, cow, dining table"),
    ("diningtable", "Did you mean dining table"), ("xyz", r"no class 'xyz'\. The classes are bird"),
    ("background", "no class 'background'")])
def test_an_unknown_class_names_similar_ones(name, message):
    with pytest.raises(UsageError, match=message):
        find_class_ids(("cat", name), CLASSES, "net")


def test_many_classes_are_not_all_listed():
    with pytest.raises(UsageError, match=r"c1, c2, .*, c8, \.\.\. \(99 in all\)"):
        find_class_ids(("x",), ("background", *(f"c{number}" for number in range(1, 100))), "net")


def test_settings_are_resolved_for_image_files():
    def resolve(config: CnnConfig, *, has_image_files: bool) -> tuple[str, tuple[str, ...]]:
        resolved = resolve_selection(config, CLASSES, "net", has_image_files=has_image_files)
        return resolved.tags, resolved.classes

    assert resolve(CnnConfig(), has_image_files=True) == ("best:0.5", ())
    assert resolve(CnnConfig(), has_image_files=False) == ("index", ())
    assert resolve(CnnConfig(tags="all"), has_image_files=True) == ("all", ())
    chosen = CnnConfig(classes=("cow;bird", "dining table"))
    assert resolve(chosen, has_image_files=True) == ("index", ("bird", "cow", "dining table"))
    assert get_best_threshold(CnnConfig(tags="best:0.25")) == 0.25
    assert get_best_threshold(CnnConfig(tags="predicted:0.25")) is None


def test_classes_and_tags_exclude_each_other():
    check_selection(CnnConfig(classes=("cat",)))
    with pytest.raises(UsageError, match=r"--classes cat and --tags best:0\.5 both"):
        check_selection(CnnConfig(classes=("cat",), tags="best:0.5"))
