"""Checks for optional packages, and compilation, before any work starts."""

from __future__ import annotations

import numpy as np

from stages.errors import Unavailable
from stages.flow.execution import Report
from stages.kernels.dense_crf import DenseCrfSettings, dense_crf


def prepare_crf(report: Report, engine: str = "numba") -> None:
    """Compile or load the code of a dense CRF, so that worker processes find it in numba's cache.

    Raises Unavailable with instructions if the package of the `engine` is not installed or can't be loaded.
    """
    if engine == "pydensecrf":
        require_pydensecrf()
    if engine != "numba":
        return
    report.start_phase("loading the dense CRF (compiling it, once, takes half a minute)")
    try:
        dense_crf(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2, 2), np.float32), DenseCrfSettings(iterations=1))
    except ImportError as error:
        raise Unavailable(f"the dense CRF needs the package numba, which can't be loaded ({error})",
                          "Install it with `pip install numba`, or use --engine torch, which is slower on a "
                          "CPU") from None


def require_pydensecrf() -> None:
    """Raise Unavailable with instructions if pydensecrf is not installed or can't be loaded."""
    try:
        from pydensecrf import densecrf  # noqa: F401
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"can't be loaded ({error})"
        raise Unavailable(f"--engine pydensecrf needs the package pydensecrf2, which {reason}",
                          "Leave --engine away, or install it with `pip install pydensecrf2==1.1`, which needs a C++ "
                          "compiler") from None
