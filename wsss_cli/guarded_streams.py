"""Standard streams on a terminal with lines of progress: whatever is printed appears above the lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from wsss_cli.shared_display import SharedDisplay


class GuardedStream:
    """Passes complete lines to the display; everything else is as in the stream that it replaces."""

    def __init__(self, stream: TextIO, display: SharedDisplay, end_display: Callable[[], None]) -> None:
        """`end_display` removes this command's line; it is called before something writes bytes to the terminal."""
        self.stream, self._display, self._end_display = stream, display, end_display
        self._unfinished = ""

    def write(self, text: str) -> int:
        """Show the complete lines of `text`, and keep the rest until its line ends."""
        lines, newline, rest = text.rpartition("\n")
        if newline:
            self._print_lines(f"{self._unfinished}{lines}\n")
            self._unfinished = rest
        else:
            self._unfinished += rest
        return len(text)

    def _print_lines(self, text: str) -> None:
        self._display.print_above(text.encode(self.stream.encoding, self.stream.errors or "replace"))

    def writelines(self, lines: Any) -> None:
        """Write several strings."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Do nothing: complete lines are never kept, and the start of a line would be overwritten."""

    def finish(self) -> None:
        """Show an unfinished line."""
        if self._unfinished:
            self.write("\n")

    @property
    def buffer(self) -> Any:
        """The stream of bytes, for pictures on the terminal."""
        self.finish()
        self._end_display()
        return cast(Any, self.stream).buffer

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the stream that this one replaces."""
        return getattr(self.stream, name)


def guard_streams(display: SharedDisplay, end_display: Callable[[], None]) -> None:
    """Replace sys.stderr, and sys.stdout if it is the same terminal."""
    terminal = os.fstat(sys.stderr.fileno())
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream.isatty() and os.path.samestat(os.fstat(stream.fileno()), terminal):
            stream.flush()
            setattr(sys, name, GuardedStream(stream, display, end_display))


def restore_streams() -> None:
    """Undo `guard_streams`; do nothing if the streams are not guarded."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, GuardedStream):
            stream.finish()
            setattr(sys, name, stream.stream)


def print_above_progress(text: str) -> None:
    """Print a line on standard error, above the progress of other commands in the same pipe."""
    if sys.stderr.isatty():
        from wsss_cli.shared_display import open_shared_display
        display = open_shared_display(sys.stderr.fileno())
        if display:
            guard_streams(display, lambda: None)
    print(text, file=sys.stderr)
    restore_streams()


def print_drawing(text: str) -> None:
    """Write a drawing to standard output as bytes: progress on the same terminal must not touch escape sequences."""
    sys.stdout.flush()
    sys.stdout.buffer.write(f"{text}\n".encode(sys.stdout.encoding or "utf-8", "replace"))
    sys.stdout.buffer.flush()
