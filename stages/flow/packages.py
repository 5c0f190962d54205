"""Packages that may be missing on a machine, told before any work is begun."""

from __future__ import annotations

from stages.errors import Unavailable


def need_pydensecrf() -> None:
    """Raise Unavailable, with the way to it, where pydensecrf is not installed or can't be loaded."""
    try:
        from pydensecrf import densecrf  # noqa: F401
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"can't be loaded ({error})"
        raise Unavailable(f"the dense CRF needs the package pydensecrf2, which {reason}",
                          "with a C++ compiler on the machine: pip install pydensecrf2==1.1") from None
