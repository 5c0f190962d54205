"""Compilation with numba, cached between processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compile_cached(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, without the GIL, and cache the machine code on disk.

    The code is cached beside this package, or if that folder can't be written, in the user's cache folder, or where
    NUMBA_CACHE_DIR says. Where none can be written, every process compiles for itself. Floating-point operations are
    done in the order written and are never fused, so that results are the same on all processors.
    """
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no folder for the cache
        return numba.njit(nogil=True, error_model="numpy")(function)
