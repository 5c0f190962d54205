"""Writes files durably and atomically: write to a temporary file, sync it, rename it, sync its folder.

Shards, journals, networks and reports are all written through this module, so that errors of the disk are handled in
one place.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from stages.errors import CannotCreate, IoFailed, Stopped, explain_write_error

# Errors of file systems without locks, such as Lustre mounted with noflock; `WSSS_LOCKS=off` accepts them.
_LOCKS_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
_FOLDER_SYNC_UNSUPPORTED = {errno.EINVAL, errno.ENOTSUP}  # errors of CIFS and FUSE, which cannot sync a folder
_LINKS_UNSUPPORTED = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}  # errors of FAT, exFAT and some CIFS


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all bytes, even when the system accepts them in several portions."""
    view = memoryview(data)
    while len(view):
        view = view[os.write(descriptor, view):]


def lock_file(path: Path, reported_path: Path) -> int:
    """Open `path` (creating it if needed), lock it and return the descriptor.

    The locked file is still the one under this name. On a file system without locks the file is only opened if the
    environment has WSSS_LOCKS=off. Raises Stopped when another process holds the lock, CannotCreate or IoFailed; the
    errors mention `reported_path`.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise explain_write_error(error, reported_path) from None
        try:
            _lock_if_supported(descriptor, reported_path)
            # The previous holder may have renamed or removed the file between our open and our lock.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BlockingIOError:
            os.close(descriptor)
            raise Stopped("another process is writing it", "Wait until it has finished, or run the same command later",
                          where=str(reported_path)) from None
        except IoFailed:
            os.close(descriptor)
            raise
        except OSError as error:
            os.close(descriptor)
            raise explain_write_error(error, reported_path) from None
        os.close(descriptor)


def _lock_if_supported(descriptor: int, reported_path: Path) -> None:
    """Lock an open file. Raises IoFailed if its file system has no locks, unless the user does without them."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _LOCKS_UNSUPPORTED:
            raise
        if os.environ.get("WSSS_LOCKS") != "off":
            raise IoFailed(f"this file system has no locks ({os.strerror(error.errno)}), which keep two commands from "
                           "writing one file", "Write to another disk, or run the command with WSSS_LOCKS=off and "
                           "never write one output twice at the same time", where=str(reported_path)) from None


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, and sync each new folder to disk.

    Raises CannotCreate or IoFailed.
    """
    try:
        if path.is_dir():
            return
        new_folders = [folder for folder in (path, *path.parents) if not folder.exists()]
        path.mkdir(parents=True, exist_ok=True)
        for folder in reversed(new_folders):
            sync_folder(folder.parent)
    except OSError as error:
        raise explain_write_error(error, path) from None


def sync_folder(path: Path) -> None:
    """Sync a folder, so that a rename in it survives a power failure."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a folder that is writable but not readable cannot be synced
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _FOLDER_SYNC_UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """Return the temporary name under which a file is written before it is renamed."""
    return path.with_name(path.name + ".tmp")


def replace_file(path: Path, data: bytes | memoryview) -> None:
    """Write `data` to `path` atomically: readers see the old file or the whole new one, never a part of it.

    The bytes are written to `<path>.tmp` under a lock, synced and renamed, and the folder is synced. Raises Stopped
    when another process is writing the file, CannotCreate (also when `path` is a device or a pipe), IoFailed.
    """
    if _is_special(path):
        raise CannotCreate("is a device or a pipe, which would be replaced", "Give the name of a file", where=str(path))
    temporary = temporary_path(path)
    descriptor = lock_file(temporary, path)
    try:
        os.ftruncate(descriptor, 0)
        write_all(descriptor, data)
        os.fsync(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise explain_write_error(error, path) from None
    finally:
        os.close(descriptor)


def replace_file_with_chunks(path: Path, chunks: Iterable[bytes], should_replace: Callable[[], bool]) -> None:
    """Write `chunks` to `<path>.tmp`, then rename it to `path` if `should_replace()`, else remove it.

    Whatever `chunks` or `should_replace` raise leaves `path` as it was. Raises errors as `replace_file` does.
    """
    if _is_special(path):
        raise CannotCreate("is a device or a pipe, which would be replaced", "Give the name of a file", where=str(path))
    temporary = temporary_path(path)
    descriptor = lock_file(temporary, path)
    try:
        os.ftruncate(descriptor, 0)
        for chunk in chunks:
            write_all(descriptor, chunk)
        if should_replace():
            os.fsync(descriptor)
            os.replace(temporary, path)
            sync_folder(path.parent)
    except OSError as error:
        raise explain_write_error(error, path) from None
    finally:
        # After a rename another process may already use the name again.
        if temporary.exists() and os.path.samestat(os.fstat(descriptor), temporary.stat()):
            temporary.unlink()
        os.close(descriptor)


def link_file(path: Path, target: str) -> None:
    """Make `path` a symbolic link to `target`, atomically. Raises CannotCreate (also without support for links)."""
    temporary = temporary_path(path)
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in _LINKS_UNSUPPORTED and path.parent.is_dir():
            raise CannotCreate(f"can't be a symbolic link ({error.strerror})", "Use --images copy",
                               where=str(path)) from None
        raise explain_write_error(error, path) from None


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def append_line(path: Path, line: bytes) -> None:
    """Append one line to a log, creating its folder if needed; errors of the disk are ignored.

    An incomplete last line, left by a killed process, is removed first, so that only the last line can be torn.
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
    # The workers of a command share its log: a line that another worker is writing is torn only once that worker died.
    if not _lock_within_a_second(descriptor):
        return
    end = os.fstat(descriptor).st_size
    if not end or os.pread(descriptor, 1, end - 1) == b"\n":
        return
    line_start = os.pread(descriptor, end, 0).rfind(b"\n") + 1
    tail = os.pread(descriptor, end - line_start, line_start)
    if (tail == b"{" or tail.startswith(b'{"')) and not _is_json(tail):
        os.ftruncate(descriptor, line_start)
    else:  # a whole line, or text of another program in a file that existed before
        write_all(descriptor, b"\n")


def _lock_within_a_second(descriptor: int) -> bool:
    """Try for one second to lock a file until it is closed; return whether that succeeded."""
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


def is_locked_on_this_machine(path: Path) -> bool:
    """Return whether a process of this machine holds a lock of the file, according to /proc/locks.

    Asking for the lock instead could make a command that starts at that moment believe that the file is in use. Locks
    that other machines hold on a shared file system cannot be seen.
    """
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    return any(field.rpartition(":")[2] == str(inode) for line in lines for field in line.split()[5:6])
