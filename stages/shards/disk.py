"""The few calls by which a file comes to be: written whole, synced, renamed, its folder synced.

All writing of shards, journals, nets and reports goes through here, so that there is one place where the
disk can say no.
"""

from __future__ import annotations

import os
from pathlib import Path

from stages.errors import refused_write


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte, also when the system takes them in portions."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view):]


def make_folder(path: Path) -> None:
    """Create a folder and its parents; raise CannotCreate or IoFailed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused_write(error, path) from None


def sync_folder(path: Path) -> None:
    """Make a rename in this folder survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Put `data` under `path`: readers see the old file or the whole new one, never a part of it.

    The bytes go to `<path>.tmp`, are synced, renamed, and the folder is synced. Raises CannotCreate, IoFailed.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise refused_write(error, path) from None
