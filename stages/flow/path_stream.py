"""Reads paths from standard input as they arrive, without blocking a loop whose workers finish meanwhile."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator
from itertools import chain, islice

from stages.flow.execution import Report, SilentReport

_POLL_SECONDS = 0.2


class LivePaths:
    """The paths that arrive on a descriptor, one per line, or separated by NUL."""

    def __init__(self, descriptor: int = 0, *, null: bool = False, report: Report | None = None) -> None:
        """`report` shows that a reader waits, unless it polls and shows that itself."""
        self._report = report or SilentReport()
        self._descriptor, self._separator = descriptor, b"\0" if null else b"\n"
        self._peeked: list[str] = []
        self._paths = self._read_paths()

    def __iter__(self) -> Iterator[str]:
        """Yield the paths until the end of the stream."""
        return self._wait(self.poll())

    def peek(self) -> str | None:
        """Return the first path without consuming it; None if the stream is empty."""
        if not self._peeked:
            self._peeked = list(islice(self._wait(self._paths), 1))
        return self._peeked[0] if self._peeked else None

    def _wait(self, paths: Iterator[str | None]) -> Iterator[str]:
        """Yield the paths without the pauses between them, which are reported."""
        for path in paths:
            self._report.start_phase("waiting for input" if path is None else "reading the input")
            if path is not None:
                yield path

    def poll(self) -> Iterator[str | None]:
        """Yield the paths, and None whenever none has arrived for 0.2 s."""
        while self._peeked:
            yield self._peeked.pop(0)
        # Not `yield from`: a caller that leaves this loop would also close the stream.
        for path in self._paths:  # noqa: UP028
            yield path

    def _read_paths(self) -> Iterator[str | None]:
        # Not through sys.stdin, whose buffers hide data from select.
        rest = b""
        while True:
            if not select.select([self._descriptor], [], [], _POLL_SECONDS)[0]:
                yield None
                continue
            data = os.read(self._descriptor, 1 << 16)
            *lines, rest = (rest + data).split(self._separator) if data else [rest, b""]
            for line in lines:
                path = os.fsdecode(line.strip(b"\r\n") if self._separator == b"\n" else line)
                if path.strip():
                    yield path
            if not data:
                return


def peek_first_path(paths: Iterable[str]) -> tuple[str | None, Iterable[str]]:
    """Return the first path (None if there is none) and an iterable of all paths, including the first."""
    if isinstance(paths, LivePaths):
        return paths.peek(), paths
    rest = iter(paths)
    first = next(rest, None)
    return first, [] if first is None else chain([first], rest)


def poll_paths(paths: Iterable[str]) -> Iterator[str | None]:
    """Yield the paths; for a live stream also None whenever none has arrived."""
    return paths.poll() if isinstance(paths, LivePaths) else iter(paths)
