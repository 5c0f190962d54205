"""Paths on standard input, taken as they come: the loop must not sleep while its workers finish."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator
from itertools import chain, islice

_SECONDS = 0.2


class LivePaths:
    """The paths that arrive on a descriptor, one a line, or ended by NUL."""

    def __init__(self, descriptor: int = 0, *, null: bool = False) -> None:
        self._descriptor, self._end = descriptor, b"\0" if null else b"\n"
        self._ahead: list[str] = []
        self._paths = self._read()

    def __iter__(self) -> Iterator[str]:
        """Yield the paths to the end of the stream."""
        return (path for path in self.poll() if path is not None)

    def peek(self) -> str | None:
        """Return the first path, which stays in the stream; None when the stream is empty."""
        if not self._ahead:
            self._ahead = list(islice((path for path in self._paths if path is not None), 1))
        return self._ahead[0] if self._ahead else None

    def poll(self) -> Iterator[str | None]:
        """Yield the paths, and None whenever none has come for 0.2 s."""
        while self._ahead:
            yield self._ahead.pop(0)
        # No `yield from`: whoever leaves this loop would end the stream with it.
        for path in self._paths:  # noqa: UP028
            yield path

    def _read(self) -> Iterator[str | None]:
        # Not through sys.stdin: its buffers hide what select could tell.
        rest = b""
        while True:
            if not select.select([self._descriptor], [], [], _SECONDS)[0]:
                yield None
                continue
            data = os.read(self._descriptor, 1 << 16)
            *lines, rest = (rest + data).split(self._end) if data else [rest, b""]
            for line in lines:
                path = os.fsdecode(line.strip(b"\r\n") if self._end == b"\n" else line)
                if path.strip():
                    yield path
            if not data:
                return


def peeked(paths: Iterable[str]) -> tuple[str | None, Iterable[str]]:
    """Return the first path (None when there is none) and all paths, the first included."""
    if isinstance(paths, LivePaths):
        return paths.peek(), paths
    rest = iter(paths)
    first = next(rest, None)
    return first, [] if first is None else chain([first], rest)


def arriving(paths: Iterable[str]) -> Iterator[str | None]:
    """Yield paths; of a live stream also None whenever there is none yet."""
    return paths.poll() if isinstance(paths, LivePaths) else iter(paths)
