"""FINCH against the packages of its authors, and against the paper's algorithm."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from conftest import TESTS, Reference
from stages.kernels.first_neighbours import METRICS, finch

FOLDER = Path(os.environ.get("WSSS_ORACLES") or TESTS / "reference")


def sets() -> list[str]:
    """Return the names of the point sets."""
    values = Reference(FOLDER, complete=False)("cam-methods/finch")
    return sorted({key.split("__")[0] for key in values})


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", sets())
@pytest.mark.parametrize(("key", "purity_filter"), [("pypi__ee0", False), ("gh__ee0", False), ("paper", False),
                                                    ("gh__ee1", True)])
def test_partitions(reference, name, metric, key, purity_filter):
    values = reference("cam-methods/finch")
    wanted = values.get(f"{name}__{metric}__{key}__c")
    if wanted is None:
        pytest.skip("not among the reference values")
    if key == "paper" and wanted.shape[1] == 0:
        pytest.skip("the strict reading of the paper has no partition of a single cluster")
    found = finch(values[f"{name}__X"], metric, purity_filter=purity_filter)
    np.testing.assert_array_equal(np.stack(found, axis=1), wanted)
