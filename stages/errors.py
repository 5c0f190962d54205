"""The errors that a user can meet: one line each, and one exit code per kind.

A message says what was found (with the value), where (file, item) and what to do. The command line prints
it as `wsss STAGE: WHERE: WHAT; WHAT TO DO` and ends with the class's code.
"""

from __future__ import annotations

import errno
import os
import re


class WsssError(Exception):
    """An answer to the user: `what` was found, `where` (file or item), what to `do` about it."""

    code = 70

    def __init__(self, what: str, do: str = "", *, where: str = "") -> None:
        super().__init__(what, do, where)
        self.what = " ".join(str(what).split())
        self.do = " ".join(str(do).split())
        self.where = str(where)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        return f"{line}; {self.do}" if self.do else line

    def __reduce__(self) -> tuple:
        # Errors travel from worker processes to the one that prints them.
        return (_rebuild, (type(self), self.what, self.do, self.where))


def _rebuild(kind: type[WsssError], what: str, do: str, where: str) -> WsssError:
    return kind(what, do, where=where)


class UsageError(WsssError):
    """The command line can't be meant so."""

    code = 2


class BadData(WsssError):
    """The input is there but is not what it says: a broken image, a shard of another kind, other classes."""

    code = 65


class MissingInput(WsssError):
    """An input is not there: a file, a folder, a part of a run."""

    code = 66


class Unavailable(WsssError):
    """Weights, a device, a package or its data are not on this machine."""

    code = 69


class CannotCreate(WsssError):
    """The output exists with other settings, or can't be created."""

    code = 73


class IoFailed(WsssError):
    """The system refused to read or write (disk full, quota); the work so far is kept."""

    code = 74


class OutOfMemory(WsssError):
    """The system gave no more memory, the GPU's too, or ended a process for it; the work so far is kept."""

    code = 74


class Stopped(WsssError):
    """Stopped by a signal, or another process holds the output: run the same command again."""

    code = 75


_CANT_CREATE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT,
                errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


# What the system refuses for reasons of its own, or of rights: it tells nothing of what is in a file.
_NOT_THE_FILE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN,
                 errno.EHOSTDOWN, errno.EHOSTUNREACH}


def refused_read(error: BaseException, path: object) -> IoFailed | None:
    """Return the answer to a refused read where the file may be as good as ever (74), None where it is the file's."""
    if isinstance(error, OSError) and error.errno in _NOT_THE_FILE:
        return IoFailed(f"can't be read ({os.strerror(error.errno)})", "see to it and run the same command again; what "
                        "is done is kept", where=str(path))
    return None


# Where torch is refused memory it raises a RuntimeError: of the CPU, of a GPU, of the GPU's libraries.
_NO_MEMORY = re.compile(r"DefaultCPUAllocator|out of memory|_ALLOC_FAILED")


def refused_memory(error: BaseException, do: str) -> OutOfMemory | None:
    """Return the answer where memory ran out, None where `error` is something else."""
    told = isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error))
    if not (told or isinstance(error, MemoryError)):
        return None
    whose = " of the GPU" if told and told[0] != "DefaultCPUAllocator" else ""
    asked = re.search(r"allocate (\d+(?:\.\d+)?)\.? (\w+)", str(error))
    return OutOfMemory(f"out of memory{whose}" + (f" ({asked[1]} {asked[2]} were asked for)" if asked else ""), do)


def refused_write(error: OSError, path: object) -> WsssError:
    """Return the answer to a refused write: 73 where the file can't be created, else 74 with the work kept."""
    reason = error.strerror or str(error)
    if error.errno in _CANT_CREATE:
        return CannotCreate(f"can't be created ({reason})", "choose another output", where=str(path))
    return IoFailed(f"can't be written ({reason})", "make room and run the same command again; "
                    "what is done is kept", where=str(path))
