"""The file through which the commands of a pipe agree on what their terminal shows: one line per command.

Its folder is private to the user, its name is that of the terminal and of the process group, and it is read and written
under a lock. A command that was killed leaves its line in it; the next one that reads the file drops that line.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wsss_cli.progress import Snapshot

_RETRY_SECONDS = 0.005
_DAY = 86400.0


@dataclass
class Line:
    """The line of one process, which is known by its id and the time of its start."""

    pid: int
    started: int
    snapshot: Snapshot

    @property
    def is_alive(self) -> bool:
        """False if the process has ended, also if another one has its id now."""
        return read_start_time(self.pid) == self.started


@dataclass
class Screen:
    """What the terminal shows: a line per process, and the widths in cells of the lines as they were drawn."""

    lines: list[Line] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    drawn_at: float = 0.0

    def set_line(self, line: Line) -> None:
        """Add or replace the line of a process; the lines are in the order in which the processes started."""
        others = [other for other in self.lines if other.pid != line.pid]
        self.lines = sorted([*others, line], key=lambda line: (line.started, line.pid))

    def remove_line(self, pid: int) -> None:
        """Remove the line of a process, if there is one."""
        self.lines = [line for line in self.lines if line.pid != pid]

    def drop_dead_lines(self) -> None:
        """Drop the lines of ended processes. If all have ended, nobody knows where their lines are on the terminal."""
        self.lines = [line for line in self.lines if line.is_alive]
        if not self.lines:
            self.drawn = []


def read_start_time(pid: int) -> int | None:
    """Return when a process started, in ticks of the system; None if it has ended, 0 if the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if Path("/proc/self/stat").exists() or not _exists(pid) else 0
    fields = status.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def find_state_path(terminal: int) -> Path:
    """Return the path of the file for the terminal behind a descriptor and for this process group.

    Raises OSError if there is no folder for temporary files that only this user can write.
    """
    folder = Path(tempfile.gettempdir()) / f"wsss-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a private folder of this user")
    device = os.fstat(terminal)
    path = folder / f"progress-{device.st_dev:x}-{device.st_rdev:x}-{os.getpgrp()}"
    if not path.exists():
        _remove_old_files(folder)
    return path


def _remove_old_files(folder: Path) -> None:
    """Remove files that killed commands left behind a day ago or earlier."""
    for path in folder.glob("progress-*"):
        with contextlib.suppress(OSError):
            if path.lstat().st_mtime < time.time() - _DAY:
                path.unlink()


@contextlib.contextmanager
def lock_state(path: Path, patience: float) -> Iterator[int | None]:
    """Open and lock the file, and create it if there is none; None if another process keeps it for `patience` seconds.

    Raises OSError if it can't be opened, or if its file system has no locks.
    """
    deadline = time.monotonic() + patience
    descriptor = _try_lock(path)
    while descriptor is None and time.monotonic() < deadline:
        time.sleep(_RETRY_SECONDS)
        descriptor = _try_lock(path)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            # Closing alone would not do: a process forked meanwhile has the descriptor too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _try_lock(path: Path) -> int | None:
    """Return a locked descriptor, None if another process has the lock or has just removed the file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def load_screen(descriptor: int) -> Screen:
    """Read the state; an empty one if the file is new, or if its writer was killed while writing."""
    data = os.pread(descriptor, 1 << 20, 0).partition(b"\n")[0]
    try:
        state: dict[str, Any] = json.loads(data)
        lines = [Line(line["pid"], line["started"], Snapshot(**line["snapshot"])) for line in state["lines"]]
        return Screen(lines, list(state["drawn"]), float(state["drawn_at"]))
    except (ValueError, KeyError, TypeError):
        return Screen()


def store_screen(descriptor: int, screen: Screen) -> None:
    """Write the state, in one line: what a longer state before it leaves behind is not read. Raises OSError."""
    data = json.dumps(asdict(screen)).encode() + b"\n"
    if os.pwrite(descriptor, data, 0) != len(data):
        raise OSError("the state of the terminal was not written as a whole")
    os.ftruncate(descriptor, len(data))
