"""Reports progress: a line on a terminal, which the commands of a pipe share, otherwise lines of text now and then."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from stages.flow.execution import Summary
from wsss_cli.guarded_streams import guard_streams
from wsss_cli.progress import Progress
from wsss_cli.progress_text import format_log_line, format_start, format_summary

if TYPE_CHECKING:
    from wsss_cli.shared_display import SharedDisplay

_SECONDS_BETWEEN_LINES = 60.0
_SECONDS_BETWEEN_LINES_ON_TERMINAL = 10.0  # a terminal that can't show a display
_FEW_IMAGES = 100
_SECONDS_BETWEEN_REDRAWS = 0.1
_SECONDS_BETWEEN_IDLE_REDRAWS = 1.0  # without a change: times go on


class TerminalReport:
    """Writes progress to standard error, and paths of finished files to standard output, each flushed at once."""

    def __init__(self, name: str, *, quiet: bool = False, verbose: bool = False,
                 clock: Callable[[], float] = time.monotonic) -> None:
        """`name` starts every line. Of the processes of one training only the first reports."""
        self._clock = clock
        self._quiet = quiet or (name.startswith("train-") and os.environ.get("RANK", "0") != "0")
        self._verbose = verbose
        self._progress = Progress(name, clock)
        self._display: SharedDisplay | None = None
        self._drawer: _Drawer | None = None
        self._seconds_between_lines = _SECONDS_BETWEEN_LINES
        self._start_time = self._last_line_time = clock()
        self._has_start_line = True  # until something is counted

    def __enter__(self) -> TerminalReport:
        if sys.stderr.isatty():
            self._open_display()
        return self

    def _open_display(self) -> None:
        """Show a first line at once, before anything heavy is imported, and guard the streams of this terminal."""
        from wsss_cli.shared_display import open_shared_display  # not needed without a terminal
        self._seconds_between_lines = _SECONDS_BETWEEN_LINES_ON_TERMINAL
        self._display = open_shared_display(sys.stderr.fileno())
        if self._display is None:
            return
        guard_streams(self._display, self.end_display)
        if not self._quiet:
            self._progress.start_phase("starting")
            signal.signal(signal.SIGCONT, self._handle_continue)
            self._drawer = _Drawer(self._progress, self._display)
            self._drawer.start()

    def _handle_continue(self, _number: int, _frame: FrameType | None) -> None:
        if self._display:
            self._display.forget_drawn_lines()

    def __exit__(self, *_: object) -> None:
        if self._drawer:
            signal.signal(signal.SIGCONT, signal.SIG_DFL)
        self.end_display()

    def end_display(self, text: str = "") -> None:
        """Remove the line of this command from the terminal, and print `text` in its place; no line, no effect."""
        drawer, self._drawer = self._drawer, None
        if drawer:
            drawer.finish(text)

    def start_phase(self, label: str) -> None:
        """Show what the command is doing now, "" while the count says it all."""
        self._progress.start_phase(label)

    def start_progress(self, label: str, total: int | None, *, unit: str = "images") -> None:
        """Start a count; `total` is None if the amount of work is not known yet."""
        self._progress.start_counting(label, total, unit)
        self._has_start_line = False
        self._last_line_time = self._clock()
        if total is not None:
            self._write_start_line()

    def set_total(self, total: int, expected: int | None = None) -> None:
        """Set the number of images known so far; `expected` estimates their final number if these are not all."""
        self._progress.set_total(total, expected)
        self._write_start_line()

    def _write_start_line(self) -> None:
        snapshot = self._progress.take_snapshot()
        # Short preparations of a few images, such as reading their headers, are not worth a line.
        is_short = bool(snapshot.phase) and (snapshot.total or 0) < _FEW_IMAGES
        if not self._drawer and not self._has_start_line and not is_short:
            self.info(format_start(snapshot))
        self._has_start_line = True

    def advance(self, count: int = 1, *, resumed: bool = False) -> None:
        """Advance the count; `resumed` ones were finished by an earlier run, and are not part of the rate."""
        self._progress.advance(count, resumed=resumed)
        if not self._drawer and self._clock() - self._last_line_time >= self._seconds_between_lines:
            self._last_line_time = self._clock()
            self.info(format_log_line(self._progress.take_snapshot()))

    def info(self, text: str, *, always: bool = False) -> None:
        """Print one line on standard error, unless --quiet is set."""
        if always or not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def debug(self, text: str) -> None:
        """Print one line on standard error if --verbose is set."""
        if self._verbose:
            self.info(text)

    def print_path(self, path: Path) -> None:
        """Print the path of a finished file on standard output."""
        print(path, flush=True)

    def print_summary(self, summary: Summary, output: Path) -> None:
        """End the progress with a line that says how much was done in what time; without one if there was no image."""
        seconds = self._clock() - self._start_time
        text = format_summary(self._progress.take_snapshot(), summary, output, seconds, self._progress.num_new)
        if self._drawer:
            self.end_display(f"{text}\n" if text else "")
        elif text:
            self.info(text)


class _Drawer(threading.Thread):
    """Draws the line of this process whenever it has changed, so that the work never waits for a terminal."""

    def __init__(self, progress: Progress, display: SharedDisplay) -> None:
        super().__init__(name="progress", daemon=True)
        self._progress, self._display, self._end = progress, display, threading.Event()

    def start(self) -> None:
        """Draw the line for the first time, and go on in a thread."""
        self._display.update(self._progress.take_snapshot())
        super().start()

    def run(self) -> None:
        """Draw until `finish` is called."""
        last, drawn_at = None, 0.0
        while not self._end.wait(_SECONDS_BETWEEN_REDRAWS):
            snapshot, now = self._progress.take_snapshot(), time.monotonic()
            counts = replace(snapshot, rate=None)
            is_due = counts != last or now - drawn_at > _SECONDS_BETWEEN_IDLE_REDRAWS
            if is_due and self._display.update(snapshot):
                last, drawn_at = counts, now

    def finish(self, text: str) -> None:
        """Stop drawing, and remove the line; `text` is printed in its place."""
        self._end.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout=1)
        self._display.remove(text.encode(errors="backslashreplace"))
