"""Values by which images are sorted, computed by hand, and the charts of training logs."""

from __future__ import annotations

import numpy as np
import pytest

from stages.flow.training_charts import build_training_charts
from stages.show.image_selection import (
    compute_best_score,
    compute_disagreement,
    compute_image_iou,
    describe_order,
    sort_worst_first,
)

TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 255]], np.uint8)


def test_the_iou_of_an_image_is_the_mean_over_classes_in_either_mask():
    """Cat: 2 of 4 pixels; background: 2 of 4, since one is called dog; dog: 0 of 2."""
    prediction = np.array([[1, 2, 0, 2], [1, 0, 0, 1]], np.uint8)
    expected = {True: (2 / 4 + 2 / 4 + 0) / 3, False: (2 / 4 + 0) / 2}
    for has_background, value in expected.items():
        assert compute_image_iou(TRUTH, prediction, 3, has_background=has_background) == pytest.approx(value)
    assert compute_image_iou(TRUTH, TRUTH, 3, has_background=True) == 1
    ignored = np.full((2, 4), 255, np.uint8)
    assert compute_image_iou(TRUTH, ignored, 3, has_background=True) == 0, "ignored by the mask: wrong"
    assert compute_image_iou(ignored, TRUTH, 3, has_background=True) is None, "ignored by the truth: not counted"


def test_the_disagreement_ignores_what_either_mask_ignores():
    other = np.array([[1, 255, 0, 0], [1, 0, 0, 3]], np.uint8)
    # Cat: 2 of 3 pixels; background: 3 of 4; the last pixel and the second do not count.
    assert compute_disagreement(TRUTH, other, 3) == pytest.approx(1 - (2 / 3 + 3 / 4) / 2)
    assert compute_disagreement(other, other, 3) == 0


def test_the_score_of_an_image_is_that_of_its_best_class():
    ids, scores = np.array([1, 3]), np.array([0.2, 0.7])
    assert compute_best_score(ids, scores, ()) == 0.7
    assert compute_best_score(ids, scores, (1, 2)) == 0.2
    assert compute_best_score(ids, scores, (2,)) is compute_best_score(ids, None, ()) is None
    assert compute_best_score(ids[:0], scores[:0], ()) is None


def test_equal_values_are_in_the_order_of_ids():
    values = {"b": 0.5, "a": 0.5, "d": 0.9, "c": 0.1}
    assert sort_worst_first(values, "iou") == ["c", "a", "b", "d"]
    assert sort_worst_first(values, "disagreement") == ["d", "a", "b", "c"]
    assert describe_order(["c", "a"], values, "score") == "Lowest score first: c 0.100, a 0.500."


def test_logs_become_one_chart_per_quantity_with_a_curve_per_network():
    log = [{"epoch": epoch, "step": 7 * epoch, "seconds": 1.0, "lr": 0.1 / epoch, "loss": 1 / epoch, "margin": 2.0,
            "map": 0.5, "map_of_chance": 0.2, "map_of_chance_sd": 0.01, "note": "text"} for epoch in (1, 2)]
    charts = build_training_charts({"a": log, "b": [{"epoch": 1, "step": 9, "loss": 3.0}]})
    assert [chart.title.split(":")[0] for chart in charts] == ["loss", "map", "margin", "lr"]
    assert charts[0].curves == {"a": [(1, 1), (2, 0.5)], "b": [(1, 3)]} and charts[0].x_label == "epoch"
    assert charts[1].curves == {"a": [(1, 0.5), (2, 0.5)], "a (chance)": [(1, 0.2), (2, 0.2)]}


def test_trainings_of_a_number_of_steps_are_drawn_over_steps():
    log = [{"epoch": 0, "step": step, "loss": 1.0} for step in (10, 20)]
    chart, = build_training_charts({"a": log})
    assert (chart.x_label, chart.curves) == ("step", {"a": [(10, 1), (20, 1)]})
