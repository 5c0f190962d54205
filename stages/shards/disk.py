"""The few calls by which a file comes to be: written whole, synced, renamed, its folder synced.

All writing of shards, journals, nets and reports goes through here, so that there is one place where the
disk can say no.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from pathlib import Path

from stages.errors import CannotCreate, Stopped, refused_write

_CANT_SYNC_FOLDERS = {errno.EINVAL, errno.ENOTSUP}  # what CIFS and FUSE answer where there is nothing to sync


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte, also when the system takes them in portions."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view):]


def locked(path: Path, named: Path) -> int:
    """Return a descriptor of `path` (created where it isn't there) that holds its lock and still has its name.

    Raises Stopped when another process holds it, CannotCreate or IoFailed; they name `named`.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise refused_write(error, named) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us may have renamed or removed the file between our open and our lock.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            raise Stopped("another process is at work on it", "wait for it, or run the same command later",
                          where=str(named)) from None
        except OSError as error:
            os.close(descriptor)
            raise refused_write(error, named) from None
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Create a folder and its parents where they aren't there, and sync each into its own.

    Raises CannotCreate or IoFailed.
    """
    try:
        if path.is_dir():
            return
        new = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in reversed(new):
            sync_folder(folder.parent)
    except OSError as error:
        raise refused_write(error, path) from None


def sync_folder(path: Path) -> None:
    """Make a rename in this folder survive a loss of power."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # what may be written to and not be read can't be synced
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANT_SYNC_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """Return the name under which a file is written before it gets its own."""
    return path.with_name(path.name + ".tmp")


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Put `data` under `path`: readers see the old file or the whole new one, never a part of it.

    The bytes go to `<path>.tmp` under a lock, are synced, renamed, and the folder is synced. Raises Stopped
    when another process writes it at this moment, CannotCreate (also in the place of a device or a pipe), IoFailed.
    """
    if _is_special(path):
        raise CannotCreate("is a device or a pipe, which a file would replace", "name a file", where=str(path))
    temporary = temporary_path(path)
    descriptor = locked(temporary, path)
    try:
        os.ftruncate(descriptor, 0)
        write_all(descriptor, data)
        os.fsync(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise refused_write(error, path) from None
    finally:
        os.close(descriptor)


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def append_line(path: Path, line: bytes) -> None:
    """Append one line to a log, in a new folder where there is none; a disk that refuses it stops nothing.

    What a kill left of a line before is cut off, so that only the last line of a log can be torn.
    """
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        return
    try:
        _cut_torn_line(descriptor)
        write_all(descriptor, line + b"\n")
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _cut_torn_line(descriptor: int) -> None:
    # The workers of a command share its log: what another is writing is torn only once that one is dead.
    if not _locked_soon(descriptor):
        return
    end = os.fstat(descriptor).st_size
    if not end or os.pread(descriptor, 1, end - 1) == b"\n":
        return
    before = os.pread(descriptor, end, 0).rfind(b"\n") + 1
    tail = os.pread(descriptor, end - before, before)
    if (tail == b"{" or tail.startswith(b'{"')) and not _is_json(tail):
        os.ftruncate(descriptor, before)
    else:  # a whole line, or the words of another: the file may have been there before
        write_all(descriptor, b"\n")


def _locked_soon(descriptor: int) -> bool:
    """Lock a file, for as long as it is open here; nobody waits longer than a second for a log."""
    for _ in range(100):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            return False
    return False


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
