"""FINCH against the packages of its authors, and against the paper's algorithm."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from conftest import TESTS, Reference
from stages.kernels.finch_clustering import METRICS, finch

FOLDER = Path(os.environ.get("WSSS_ORACLES") or TESTS / "reference")


def list_point_sets() -> list[str]:
    """Return the names of the point sets."""
    values = Reference(FOLDER, complete=False)("cam-methods/finch")
    return sorted({key.split("__")[0] for key in values})


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", list_point_sets())
@pytest.mark.parametrize(("key", "purity_filter"), [("pypi__ee0", False), ("gh__ee0", False), ("paper", False),
                                                    ("gh__ee1", True)])
def test_partitions_match(reference, name, metric, key, purity_filter):
    values = reference("cam-methods/finch")
    expected = values.get(f"{name}__{metric}__{key}__c")
    if expected is None:
        pytest.skip("these arrays are not among the reference values")
    if key == "paper" and expected.shape[1] == 0:
        pytest.skip("by a strict reading of the paper there is no partition with a single cluster")
    actual = finch(values[f"{name}__X"], metric, purity_filter=purity_filter)
    np.testing.assert_array_equal(np.stack(actual, axis=1), expected)
