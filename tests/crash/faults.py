"""Record and number every call by which a command changes the disk, and inject a fault into one of them.

The product contains nothing of this: the functions of `os` that change files are replaced in the process under test,
before the command starts. Calls that bypass them are detected in two ways: Python's audit events report every file that
is opened for writing, renamed or removed by other means, and the number of bytes that the process wrote, as counted by
the system, must equal the number recorded here.

The calls are appended to a file, and numbered across all processes of a command by the length of another file.
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

# Each of these changes a file or a folder. utime is included because it can fail, and the files must stay intact. close
# is not: fsync has already reported any failed write, and no file gets its final name without fsync (see test_order).
CALLS = ("open", "write", "fsync", "fdatasync", "ftruncate", "truncate", "rename", "replace", "unlink", "remove",
         "link", "symlink", "mkdir", "rmdir", "utime", "chmod", "pwrite", "writev", "sendfile", "copy_file_range")
_BY_DESCRIPTOR = {"write", "fsync", "fdatasync", "ftruncate", "pwrite", "writev"}
CALLS_NEEDING_SPACE = {"open", "write", "mkdir", "pwrite", "writev"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_AUDITED = {"os.rename": "rename", "os.remove": "unlink", "os.truncate": "truncate", "os.mkdir": "mkdir",
            "os.rmdir": "rmdir", "os.link": "link", "os.symlink": "symlink", "os.utime": "utime", "os.chmod": "chmod"}
PLAN_VARIABLE = "CRASH_PLAN"

_real = {name: getattr(os, name) for name in (*CALLS, "close")}


@dataclass(frozen=True)
class Plan:
    """The fault to inject, and the path prefix of the files to which calls are recorded.

    Only calls on files below `folder` count. `fault` happens at `call_number` (from 1): "": nothing; "kill": kill the
    command with its workers, after half of a write; "kill-process": kill only this process; "fail": the call fails with
    `errno`; "full": from here on no call that needs space succeeds, after half of a write; "short": a write accepts
    half of the bytes; "pause": stop until continued; "signal": send the signal `errno` to the process, and continue.
    """

    folder: str
    notes: str
    fault: str = ""
    call_number: int = 0
    errno: int = 0


class Watch:
    """Records the calls of one process and injects the fault of its plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.paths, self.inside = plan, {}, threading.local()
        self.num_recorded = self.num_written = 0
        self.actions = {"kill": self._kill, "kill-process": self._kill, "fail": self._fail, "full": self._fill,
                        "short": self._shorten, "pause": self._pause,
                        "signal": self._signal}

    def install(self) -> None:
        """Replace the functions of `os`, also in pathlib, which has its own references to some in Python 3.10."""
        accessor = getattr(pathlib, "_NormalAccessor", None)
        for name in CALLS:
            call = functools.partial(self._call, name)
            setattr(os, name, call)
            if accessor is not None and hasattr(accessor, name) and name != "open":
                setattr(accessor, name, staticmethod(call))
        os.close = self._close
        sys.addaudithook(self._audit)

    def record(self, call: str, path: str = "", **kwargs: Any) -> None:
        """Append one line to the record."""
        line = json.dumps({"call": call, "path": path, "pid": os.getpid(), **kwargs}).encode() + b"\n"
        self._append(f"{self.plan.notes}.jsonl", line)

    def count_unseen_bytes(self) -> int:
        """Return how many of the bytes written by this process were not recorded here; -1 if the system can't tell.

        Stdout and stderr are regular files in the tests, so their size is the number of bytes written to them.
        """
        try:
            num_written = int(Path("/proc/self/io").read_text().split("wchar: ")[1].split()[0])
        except (OSError, IndexError):
            return -1
        num_printed = sum(os.fstat(number).st_size for number in (1, 2))
        return num_written - self.num_recorded - self.num_written - num_printed

    def _append(self, path: str, data: bytes) -> int:
        """Append to a file of the watch itself, and return its new length."""
        self.inside.on = True
        descriptor = _real["open"](path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self.num_recorded += _real["write"](descriptor, data)
        length = os.lseek(descriptor, 0, os.SEEK_CUR)
        _real["close"](descriptor)
        self.inside.on = False
        return length

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        path = self._find_path(name, args)
        if path is None:
            return self._call_real(name, *args, **kwargs)
        number = self._append(f"{self.plan.notes}.count", b".")
        size = len(args[1]) if name == "write" else None
        self.record(name, path, number=number, **({"size": size} if size is not None else {}))
        action = self.actions.get(self.plan.fault)
        is_due = number == self.plan.call_number or (self.plan.fault == "full" and number > self.plan.call_number)
        if action is not None and is_due:
            return action(name, path, number, functools.partial(self._call_real, name, *args, **kwargs), args)
        return self._call_real(name, *args, **kwargs)

    def _call_real(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self.inside.on = True
        try:
            result = _real[name](*args, **kwargs)
        finally:
            self.inside.on = False
        if name == "open":
            self.paths[result] = os.path.abspath(args[0])
        elif name in ("write", "pwrite", "writev"):
            self.num_written += result
        return result

    def _close(self, descriptor: int) -> None:
        self.paths.pop(descriptor, None)
        _real["close"](descriptor)

    def _find_path(self, name: str, args: tuple[Any, ...]) -> str | None:
        """Return the path that a call changes, or None if it does not count."""
        if name == "open" and not args[1] & _WRITING:
            return None
        path = self.paths.get(args[0]) if name in _BY_DESCRIPTOR else args[0]
        return self._resolve_below(args[1] if name in ("rename", "replace", "link", "symlink") else path)

    def _resolve_below(self, path: Any) -> str | None:
        if not isinstance(path, (str, os.PathLike)):
            return None
        full = os.path.abspath(path)
        return full if full == self.plan.folder or full.startswith(self.plan.folder + os.sep) else None

    def _audit(self, event: str, args: tuple[Any, ...]) -> None:
        if getattr(self.inside, "on", False):
            return
        writes = event == "open" and (args[2] or 0) & _WRITING
        if (writes or event in _AUDITED) and self._resolve_below(args[0]):
            self.record("past", os.path.abspath(args[0]), event=event)

    def _kill(self, name: str, _path: str, _number: int, _call_real: Callable, args: tuple[Any, ...]) -> None:
        if name == "write":
            _real["write"](args[0], args[1][:len(args[1]) // 2])
        if self.plan.fault == "kill":
            os.killpg(0, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def _fail(self, _name: str, path: str, _number: int, _call_real: Callable, _args: tuple[Any, ...]) -> None:
        raise OSError(self.plan.errno, os.strerror(self.plan.errno), path)

    def _fill(self, name: str, path: str, number: int, really: Callable, args: tuple[Any, ...]) -> Any:
        exists = name == "open" and Path(path).exists()
        if name == "write" and number == self.plan.call_number and len(args[1]) > 1:
            return self._call_real(name, args[0], args[1][:len(args[1]) // 2])
        if name in CALLS_NEEDING_SPACE and not exists:
            raise OSError(self.plan.errno, os.strerror(self.plan.errno), path)
        return really()

    def _shorten(self, name: str, _path: str, _number: int, really: Callable, args: tuple[Any, ...]) -> Any:
        if name != "write":
            return really()
        return self._call_real(name, args[0], args[1][:max(1, len(args[1]) // 2)])

    def _pause(self, _name: str, _path: str, _number: int, really: Callable, _args: tuple[Any, ...]) -> Any:
        os.kill(os.getpid(), signal.SIGSTOP)
        return really()

    def _signal(self, _name: str, _path: str, _number: int, really: Callable, _args: tuple[Any, ...]) -> Any:
        os.kill(os.getpid(), self.plan.errno)
        return really()


def watch_process(plan: Plan) -> Watch:
    """Watch this process and the processes that it starts, which have tests/crash/spawned on their path."""
    watch = Watch(plan)
    watch.install()
    os.environ[PLAN_VARIABLE] = json.dumps(asdict(plan))
    return watch
