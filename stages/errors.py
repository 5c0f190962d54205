"""The errors shown to users, one class per exit code.

Each error says what is wrong (with the value), where (file, item or option) and how to fix it. The command line
prints it as one line, `wsss STAGE: WHERE: MESSAGE. REMEDY.`, and exits with the code of its class.
"""

from __future__ import annotations

import errno
import os
import re


class WsssError(Exception):
    """An error to show to the user as `WHERE: MESSAGE. REMEDY.`

    `message` is a clause in the present tense that reads on after `where: ` (a file, an item, an option) and has no
    full stop. `remedy` is a sentence in the imperative that names the command or option that fixes the problem.
    """

    code = 70

    def __init__(self, message: str, remedy: str = "", *, where: str = "") -> None:
        super().__init__(message, remedy, where)
        self.message = " ".join(str(message).split())
        self.remedy = " ".join(str(remedy).split())
        self.where = str(where)

    def __str__(self) -> str:
        line = f"{self.where}: {self.message}" if self.where else self.message
        return f"{_end_sentence(line)} {_end_sentence(_capitalise(self.remedy))}" if self.remedy else line

    def __reduce__(self) -> tuple:
        # Worker processes send their errors to the process that prints them.
        return (_rebuild, (type(self), self.message, self.remedy, self.where))


def _rebuild(kind: type[WsssError], message: str, remedy: str, where: str) -> WsssError:
    return kind(message, remedy, where=where)


def _end_sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _capitalise(text: str) -> str:
    """Capitalise the first letter of a sentence, unless it starts with the command `wsss`."""
    return text if text.split()[0] == "wsss" else text[0].upper() + text[1:]


class UsageError(WsssError):
    """The arguments of the command line are invalid or contradict each other."""

    code = 2


class BadData(WsssError):
    """An input exists but is unusable: a damaged image, a shard of another kind, a different class list."""

    code = 65


class MissingInput(WsssError):
    """An input does not exist: a file, a folder, a part of a run."""

    code = 66


class Unavailable(WsssError):
    """Weights, a device, a package or its data are not available on this machine."""

    code = 69


class CannotCreate(WsssError):
    """The output cannot be created, or exists with different settings."""

    code = 73


class IoFailed(WsssError):
    """The operating system failed to read or write (disk full, quota); finished work is kept."""

    code = 74


class OutOfMemory(WsssError):
    """Memory (of the machine or the GPU) ran out, or the system killed a worker for it; finished work is kept."""

    code = 74


class Stopped(WsssError):
    """A signal interrupted the command, or another process holds the output: the same command resumes."""

    code = 75


_CANNOT_CREATE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT,
                  errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}


# Failures of the system (limits, file server) that say nothing about the contents of the file.
_SYSTEM_FAILURES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN,
                    errno.EHOSTDOWN, errno.EHOSTUNREACH}


def explain_read_error(error: BaseException, path: object) -> IoFailed | None:
    """Return IoFailed (74) when the system failed to read and the file may be intact, else None: the file is bad."""
    if isinstance(error, OSError) and error.errno in _SYSTEM_FAILURES:
        return IoFailed(f"can't be read ({os.strerror(error.errno)})", "Fix the cause and run the same command again "
                        "to resume; finished work is kept", where=str(path))
    return None


# torch raises RuntimeError when the CPU allocator, a GPU or one of the GPU's libraries runs out of memory.
_NO_MEMORY = re.compile(r"DefaultCPUAllocator|out of memory|_ALLOC_FAILED")


def explain_memory_error(error: BaseException, remedy: str) -> OutOfMemory | None:
    """Return OutOfMemory (74) when `error` says that memory ran out, None for any other error."""
    match = _NO_MEMORY.search(str(error)) if isinstance(error, RuntimeError) else None
    if match is None and not isinstance(error, MemoryError):
        return None
    device = "GPU " if match is not None and match[0] != "DefaultCPUAllocator" else ""
    size = re.search(r"allocate (\d+(?:\.\d+)?)\.? (\w+)", str(error))
    return OutOfMemory(f"out of {device}memory" + (f" ({size[1]} {size[2]} were requested)" if size else ""), remedy)


def explain_write_error(error: OSError, path: object) -> WsssError:
    """Return CannotCreate (73) when the file cannot be created, else IoFailed (74): finished work is kept."""
    reason = error.strerror or str(error)
    if error.errno in _CANNOT_CREATE:
        return CannotCreate(f"can't be created ({reason})", "Choose another output", where=str(path))
    return IoFailed(f"can't be written ({reason})", "Free some space and run the same command again to resume; "
                    "finished work is kept", where=str(path))
