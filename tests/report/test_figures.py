"""Figures: positions are the values, tables have the numbers, missing values are left out, names are escaped."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from stages.report.figures import RunFigures, build_columns, build_sections
from stages.report.plot_matrices import plot_confusion, plot_cooccurrence
from stages.report.plots import MARKS, choose_ticks, plot_class_bars, plot_lines, plot_threshold_curves

NAN = float("nan")


def read_cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def test_bars_are_sorted_and_complete():
    runs = {"a": (np.array([0.2, 0.5, NAN]), np.array([0.1, NAN, NAN]), np.array([0.3, NAN, NAN])),
            "<b>": (np.array([0.4, 0.9, NAN]), *np.full((2, 3), NAN))}
    html = plot_class_bars(["cat", "<i>", "none"], runs)
    assert read_cells(html) == [
        ["Class", "a, IoU in %", "a, 95 % interval", "&lt;b&gt;, IoU in %", "&lt;b&gt;, 95 % interval"],
        ["&lt;i&gt;", "50.0", "–", "90.0", "–"], ["cat", "20.0", "10.0 to 30.0", "40.0", "–"],
        ["none", "–", "–", "–", "–"]]
    assert html.count('class="mark"') == 4
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)%", html) == [("10.00", "20.00")]
    assert "<i>" not in html
    assert all(mark in html for mark in MARKS[:2])


@pytest.mark.parametrize("num_runs", [1, 8, 12])
def test_any_number_of_runs_and_classes(num_runs):
    values = np.linspace(0, 1, 80)
    html = plot_class_bars([f"class {number}" for number in range(80)],
                           {f"run {number}": (values, values, values) for number in range(num_runs)})
    assert html.count('class="mark"') == 80 * num_runs
    assert "nan" not in html


def test_threshold_curves_mark_the_chosen_value():
    html = plot_threshold_curves({"cams": ([0.0, 0.5, 1.0], [0.1, 0.4, 0.2], 0.5)})
    assert re.search(r'title="cams: 40 at 0.5"[^>]*left:50.00%;top:0.00%', html)
    assert read_cells(html)[1:] == [["0.00", "10"], ["0.50", "40"], ["1.00", "20"]]


def test_lines_skip_values_that_are_not_finite():
    html = plot_lines({"a": ([0, 1, 2], [NAN, 1.0, float("inf")])}, "step", "")
    assert len(re.findall(r"points=\"([^\"]*)\"", html)[0].split()) == 1
    assert plot_lines({"a": ([0], [NAN])}, "step", "") == "<p>No values.</p>"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0), (0.1, 0.1), (-3, 1000), (1e-9, 2e-9), (17.2, 17.9)])
def test_ticks_enclose_the_values(low, high):
    ticks = choose_ticks(low, high)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-12
    assert 2 <= len(ticks) <= 8
    assert len(set(ticks)) == len(ticks)


def test_matrices():
    html = plot_confusion(["a", "<b>"], np.array([[3, 1], [0, 0]]))
    assert read_cells(html)[1:] == [["a", "75", "25"], ["&lt;b&gt;", "", ""]]
    assert 'title="25 % of a is predicted as &lt;b&gt;"' in html
    html = plot_cooccurrence(["a", "b"], np.array([[4, 1], [1, 2]]))
    assert read_cells(html)[1:] == [["a", "4", "1"], ["b", "1", "2"]]
    assert "--share:0.250" in html


def test_long_names_are_shown_in_full_under_the_mouse_and_the_scale_is_above_many_classes():
    for num_classes, num_scales in ((1, 1), (13, 2)):
        html = plot_class_bars(["a" * 300] * num_classes, {"run": np.full((3, num_classes), 0.5)})
        assert html.count('class="x-labels"') == num_scales
        assert html.count(f'title="{"a" * 300}"') == num_classes


def test_scrolled_tables_have_names_of_their_own():
    run = RunFigures("a", np.full(2, 0.5), matrix=np.eye(2, 3, dtype=int), sweep=([0, 1], [0, 1], 0))
    sections = build_sections(("", "cat"), [run, replace(run, title="b")], ("", "cat"), np.ones((1, 1), int),
                              {"net": [{"step": 1, "loss": 2.0, "map": 0.5}]}, "")
    labels = re.findall(r'role="region" aria-label="([^"]*)"', "".join(section.html for section in sections))
    assert len(set(labels)) == len(labels) == 7


def test_sections_without_data_are_left_out():
    assert build_sections(("", "cat"), [RunFigures("a")], ("", "cat"), np.zeros((1, 1), int), {}, "") == []
    values = np.array([NAN, 0.5])
    sections = build_sections(("", "cat"), [RunFigures("a", values, values, values, np.eye(2, 3, dtype=int))],
                              ("", "cat"), np.ones((1, 1), int), {"net": [{"step": 1, "loss": 2.0}]}, "<ol></ol>")
    assert [section.id for section in sections] == ["classes", "confusion", "cooccurrence", "training", "provenance"]


def test_columns_of_a_log():
    lines = [{"step": 2, "epoch": 1, "seconds": 3.0, "lr": 0.1, "loss": 1.0, "map": 0.2, "map_of_chance": 0.1,
              "map_of_chance_sd": 0.01, "ok": True, "name": "x"}, {"step": 4, "loss": NAN, "lr": 0.2}]
    assert build_columns(lines) == {"loss": ([2.0], [1.0]), "map": ([2.0], [0.2]), "lr": ([2.0, 4.0], [0.1, 0.2]),
                                    "map_of_chance": ([2.0], [0.1])}
