"""Expected calibration error and reliability table, compared with values computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stages.kernels.calibration import Calibration


def test_error_computed_by_hand():
    calibration = Calibration(2)
    calibration.add(np.array([[0.25, 0.5]]), np.array([[True, False]]))
    calibration.add(np.array([0.75, 1.0, 1.0, 0.75]), np.array([True, True, False, True]))
    low, high = calibration.list_bins()
    assert (low.low, low.high, low.pixels, low.confidence, low.accuracy) == (0, 0.5, 2, 0.375, 0.5)
    assert (high.pixels, high.confidence, high.accuracy) == (4, 0.875, 0.75)
    # (2 |0.5 - 0.375| + 4 |0.75 - 0.875|) / 6
    assert calibration.compute_expected_error() == pytest.approx(0.125)


def test_bins_include_their_upper_bound():
    calibration = Calibration(10)
    calibration.add(np.array([0, 0.5, 0.5001, 1.0]), np.array([True] * 4))
    assert [row.pixels for row in calibration.list_bins()] == [1, 0, 0, 0, 1, 1, 0, 0, 0, 1]


def test_without_pixels_there_is_no_error():
    calibration = Calibration()
    calibration.add(np.zeros((0, 3)), np.zeros((0, 3), bool))
    assert calibration.compute_expected_error() is None
    assert calibration.list_bins()[0].accuracy is None


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_rejects_what_is_no_confidence(value):
    with pytest.raises(ValueError, match="confidences"):
        Calibration().add(np.array([0.5, value]), np.array([True, True]))
