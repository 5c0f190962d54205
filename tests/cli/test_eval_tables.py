"""The tables of `eval`: many classes are shortened, and lines fit into a terminal of 80 columns."""

from __future__ import annotations

from wsss_cli.eval_tables import build_tables, describe_shown_classes, format_level
from wsss_cli.tables import format_text


def build_result(num_classes: int) -> dict:
    """Return a comparison of two runs in which class number i gains i / 1000."""
    names = [f"class number {index}" for index in range(num_classes)]
    runs = [{"name": name, "miou": 0.5, "interval": [0.4, 0.6], "per_class": dict.fromkeys(names, 0.5)}
            for name in ("cams-of-seed-0", "crf")]
    per_class = {name: {"difference": index / 1000, "interval": [0.0, 0.1]} for index, name in enumerate(names)}
    difference = {"difference": 0.02, "interval": [0.01, 0.03], "better": 0.6, "per_class": per_class}
    return {"runs": runs, "differences": [difference], "interval_level": 0.95}


def test_many_classes_are_shortened_to_those_that_differ_most():
    result = build_result(80)
    runs, classes = build_tables(result, all_classes=False)
    assert [row[0] for row in classes[1:]] == [f"class number {index}" for index in range(70, 80)]
    assert "10 of 80 classes" in describe_shown_classes(result, all_classes=False)
    assert len(build_tables(result, all_classes=True)[1]) == 81
    assert describe_shown_classes(result, all_classes=True) == ""
    assert all(len(line) <= 80 for table in (runs, classes) for line in format_text(table).splitlines())


def test_few_classes_are_all_shown():
    result = build_result(21)
    assert len(build_tables(result, all_classes=False)[1]) == 22
    assert describe_shown_classes(result, all_classes=False) == ""


def test_levels_have_no_needless_digits():
    assert [format_level({"interval_level": level}) for level in (0.95, 0.9, 0.995)] == ["95 %", "90 %", "99.5 %"]
