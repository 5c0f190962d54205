"""Report progress: bars on a terminal, one line per minute otherwise; paths of finished files to standard output."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

_SECONDS_BETWEEN_LINES = 60.0


class TerminalReport:
    """Writes progress to standard error, and paths of finished files to standard output, each flushed at once."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._bars: Any = None
        self._bar: Any = None
        self._label = ""
        self._total: int | None = None
        self._done = 0
        self._start_time = self._last_line_time = time.monotonic()

    def __enter__(self) -> TerminalReport:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            self._bars = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), console=Console(stderr=True, markup=False, highlight=False),
                # Otherwise rich shows on the terminal what is written to a pipe.
                redirect_stdout=sys.stdout.isatty(),
                transient=True)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def start_progress(self, label: str, total: int | None) -> None:
        """Start a progress bar; `total` is None if the amount of work is unknown."""
        self._label, self._total, self._done = label, total, 0
        self._start_time = self._last_line_time = time.monotonic()
        if self._bars:
            if self._bar is not None:
                self._bars.remove_task(self._bar)
            self._bar = self._bars.add_task(label, total=total)

    def advance(self, count: int = 1) -> None:
        """Advance the progress bar by `count`."""
        self._done += count
        if self._bars:
            self._bars.advance(self._bar, count)
        elif time.monotonic() - self._last_line_time > _SECONDS_BETWEEN_LINES:
            self._last_line_time = time.monotonic()
            self.info(self._format_progress())

    def _format_progress(self) -> str:
        rate = self._done / max(1e-9, time.monotonic() - self._start_time)
        total = f" of {self._total}" if self._total else ""
        return f"{self._label}: {self._done}{total}, {rate:.2f} per second"

    def info(self, text: str, *, always: bool = False) -> None:
        """Print one line on standard error, unless --quiet is set."""
        if always or not self._quiet:
            if self._bars:
                self._bars.console.print(text, markup=False, highlight=False)
            else:
                print(text, file=sys.stderr, flush=True)

    def debug(self, text: str) -> None:
        """Print one line on standard error if --verbose is set."""
        if self._verbose:
            self.info(text)

    def print_path(self, path: Path) -> None:
        """Print the path of a finished file on standard output."""
        print(path, flush=True)
