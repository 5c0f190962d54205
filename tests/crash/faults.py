"""Watches every call by which a command changes the disk, numbers it, and lets one of them go wrong.

Nothing of this is in the product: the functions of `os` that change files are replaced in the process under test,
before the command begins. What would get past them is found in two ways: Python's audit events tell of every file that
is opened for writing, renamed or removed by other means, and the system's count of the bytes that the process wrote
must be the sum of those that were seen here.

The calls are appended to a file, and numbered over all processes of a command by the length of another.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Each changes a file or a folder. utime is here too: it can fail, and the files must stay sound. close is not: what it
# could still tell of a write, fsync has told before, and no file gets its final name without one (see test_order).
CALLS = ("open", "write", "fsync", "fdatasync", "ftruncate", "truncate", "rename", "replace", "unlink", "remove",
         "link", "symlink", "mkdir", "rmdir", "utime", "chmod", "pwrite", "writev", "sendfile", "copy_file_range")
_BY_DESCRIPTOR = {"write", "fsync", "fdatasync", "ftruncate", "pwrite", "writev"}
TAKES_ROOM = {"open", "write", "mkdir", "pwrite", "writev"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AUDITED = {"os.rename": "rename", "os.remove": "unlink", "os.truncate": "truncate", "os.mkdir": "mkdir",
            "os.rmdir": "rmdir", "os.link": "link", "os.symlink": "symlink", "os.utime": "utime", "os.chmod": "chmod"}
VARIABLE = "CRASH_PLAN"

_real = {name: getattr(os, name) for name in (*CALLS, "close")}


@dataclass(frozen=True)
class Plan:
    """What is to go wrong, and where what happens is noted.

    Only calls on files below `folder` count. `how` at the call number `at` (from 1): "" nothing; "kill" the command
    with its workers, half of a write done; "kill-process" this process alone; "fail" this call with `errno`; "full":
    from here on nothing that takes room succeeds, half of a write is still done; "short": a write takes half of the
    bytes; "pause": stop until continued; "signal": the process gets the signal `errno`, and goes on.
    """

    folder: str
    notes: str
    how: str = ""
    at: int = 0
    errno: int = 0


class Watch:
    """The calls of one process."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.paths, self.inside = plan, {}, threading.local()
        self.noted = self.written = 0
        self.acts = {"kill": self._kill, "kill-process": self._kill, "fail": self._fail, "full": self._fill,
                     "short": self._shorten, "pause": self._pause,
                     "signal": self._signal}

    def install(self) -> None:
        """Replace the functions of `os`, for pathlib as well, which kept some of them in Python 3.10."""
        kept = getattr(pathlib, "_NormalAccessor", None)
        for name in CALLS:
            call = functools.partial(self._call, name)
            setattr(os, name, call)
            if kept is not None and hasattr(kept, name) and name != "open":
                setattr(kept, name, staticmethod(call))
        os.close = self._close
        sys.addaudithook(self._audit)

    def note(self, call: str, path: str = "", **more: Any) -> None:
        """Append one line to the notes."""
        line = json.dumps({"call": call, "path": path, "pid": os.getpid(), **more}).encode() + b"\n"
        self._append(f"{self.plan.notes}.jsonl", line)

    def unseen(self) -> int:
        """Return how many bytes this process wrote to whatever place that were not seen here; -1: not to be had.

        Standard output and error are regular files in the tests, and count by their size.
        """
        try:
            counted = int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])
        except (OSError, IndexError):
            return -1
        told = sum(os.fstat(number).st_size for number in (1, 2))
        return counted - self.noted - self.written - told

    def _append(self, path: str, data: bytes) -> int:
        """Append to a file of the watch itself; return its length then."""
        self.inside.on = True
        descriptor = _real["open"](path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self.noted += _real["write"](descriptor, data)
        length = os.lseek(descriptor, 0, os.SEEK_CUR)
        _real["close"](descriptor)
        self.inside.on = False
        return length

    def _call(self, name: str, *args: Any, **more: Any) -> Any:
        path = self._concerned(name, args)
        if path is None:
            return self._really(name, *args, **more)
        number = self._append(f"{self.plan.notes}.count", b".")
        size = len(args[1]) if name == "write" else None
        self.note(name, path, number=number, **({"size": size} if size is not None else {}))
        act = self.acts.get(self.plan.how)
        if act is not None and (number == self.plan.at or (self.plan.how == "full" and number > self.plan.at)):
            return act(name, path, number, functools.partial(self._really, name, *args, **more), args)
        return self._really(name, *args, **more)

    def _really(self, name: str, *args: Any, **more: Any) -> Any:
        self.inside.on = True
        try:
            done = _real[name](*args, **more)
        finally:
            self.inside.on = False
        if name == "open":
            self.paths[done] = os.path.abspath(args[0])
        elif name in ("write", "pwrite", "writev"):
            self.written += done
        return done

    def _close(self, descriptor: int) -> None:
        self.paths.pop(descriptor, None)
        _real["close"](descriptor)

    def _concerned(self, name: str, args: tuple[Any, ...]) -> str | None:
        """Return the path that a call is about, where it is one that counts."""
        if name == "open" and not args[1] & _WRITING:
            return None
        path = self.paths.get(args[0]) if name in _BY_DESCRIPTOR else args[0]
        return self._below(args[1] if name in ("rename", "replace", "link", "symlink") else path)

    def _below(self, path: Any) -> str | None:
        if not isinstance(path, (str, os.PathLike)):
            return None
        full = os.path.abspath(path)
        return full if full == self.plan.folder or full.startswith(self.plan.folder + os.sep) else None

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if getattr(self.inside, "on", False):
            return
        writes = event == "open" and (args[2] or 0) & _WRITING
        if (writes or event in _AUDITED) and self._below(args[0]):
            self.note("past", os.path.abspath(args[0]), event=event)

    def _kill(self, name: str, _path: str, _number: int, _really: Callable, args: tuple[Any, ...]) -> None:
        if name == "write":
            _real["write"](args[0], args[1][:len(args[1]) // 2])
        if self.plan.how == "kill":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _fail(self, _name: str, path: str, _number: int, _really: Callable, _args: tuple[Any, ...]) -> None:
        raise OSError(self.plan.errno, os.strerror(self.plan.errno), path)

    def _fill(self, name: str, path: str, number: int, really: Callable, args: tuple[Any, ...]) -> Any:
        there = name == "open" and Path(path).exists()
        if name == "write" and number == self.plan.at and len(args[1]) > 1:
            return self._really(name, args[0], args[1][:len(args[1]) // 2])
        if name in TAKES_ROOM and not there:
            raise OSError(self.plan.errno, os.strerror(self.plan.errno), path)
        return really()

    def _shorten(self, name: str, _path: str, _number: int, really: Callable, args: tuple[Any, ...]) -> Any:
        if name != "write":
            return really()
        return self._really(name, args[0], args[1][:max(1, len(args[1]) // 2)])

    def _pause(self, _name: str, _path: str, _number: int, really: Callable, _args: tuple[Any, ...]) -> Any:
        os.kill(os.getpid(), signal.SIGSTOP)
        return really()

    def _signal(self, _name: str, _path: str, _number: int, really: Callable, _args: tuple[Any, ...]) -> Any:
        os.kill(os.getpid(), self.plan.errno)
        return really()


def watched(plan: Plan) -> Watch:
    """Watch this process, and what it starts (tests/crash/spawned is on their path)."""
    watch = Watch(plan)
    watch.install()
    os.environ[VARIABLE] = json.dumps(asdict(plan))
    return watch
