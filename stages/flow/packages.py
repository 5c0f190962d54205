"""Checks for optional packages before any work starts."""

from __future__ import annotations

from stages.errors import Unavailable


def require_pydensecrf() -> None:
    """Raise Unavailable with instructions if pydensecrf is not installed or can't be loaded."""
    try:
        from pydensecrf import densecrf  # noqa: F401
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"can't be loaded ({error})"
        raise Unavailable(f"the dense CRF needs the package pydensecrf2, which {reason}",
                          "Install it with `pip install pydensecrf2==1.1`, which needs a C++ compiler") from None
