"""Turn exceptions of h5py into errors that name the file and the item, and how to fix it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.errors import BadData, WsssError, explain_read_error

REMAKE = "Make the shard again; `wsss check --repair` keeps its intact images"


@contextmanager
def translate_read_errors(path: Path | str, item: str = "") -> Iterator[None]:
    """Turn any exception of h5py raised inside into BadData that names the file and the item.

    Failures of the system that say nothing about the file become IoFailed.
    """
    try:
        yield
    except (WsssError, MemoryError):
        raise
    except Exception as error:
        if system_error := explain_read_error(error, path):
            raise system_error from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadData(f"can't be read ({reason[:160]})", f"The file is damaged. {REMAKE}",
                      where=format_location(path, item)) from None


def format_location(path: Path | str, item: str) -> str:
    """Return where an error is: the file, and the item unless it is empty."""
    return f"{path}: item {item}" if item else str(path)
