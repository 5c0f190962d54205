"""Progress for the person who waits: bars on a terminal, one line a minute otherwise; paths for the pipe."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

_SECONDS_BETWEEN_LINES = 60.0


class TerminalReport:
    """Writes progress to standard error and finished paths to standard output, flushed one by one."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self._quiet, self._verbose = quiet, verbose
        self._bars: Any = None
        self._bar: Any = None
        self._what = ""
        self._total: int | None = None
        self._done = 0
        self._started = self._told = time.monotonic()

    def __enter__(self) -> TerminalReport:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
            self._bars = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeRemainingColumn(), console=Console(stderr=True, markup=False, highlight=False),
                # Else rich takes what is meant for a pipe and shows it on the terminal.
                redirect_stdout=sys.stdout.isatty(),
                transient=True)
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def begin(self, what: str, total: int | None) -> None:
        """Start to count `what`, of `total` where that is known."""
        self._what, self._total, self._done = what, total, 0
        self._started = self._told = time.monotonic()
        if self._bars:
            if self._bar is not None:
                self._bars.remove_task(self._bar)
            self._bar = self._bars.add_task(what, total=total)

    def advance(self, count: int = 1) -> None:
        """Count on."""
        self._done += count
        if self._bars:
            self._bars.advance(self._bar, count)
        elif time.monotonic() - self._told > _SECONDS_BETWEEN_LINES:
            self._told = time.monotonic()
            self.tell(self._line())

    def _line(self) -> str:
        rate = self._done / max(1e-9, time.monotonic() - self._started)
        of = f"/{self._total}" if self._total else ""
        return f"{self._what}: {self._done}{of}, {rate:.2f} a second"

    def tell(self, text: str, *, always: bool = False) -> None:
        """Say one line to the person who waits."""
        if always or not self._quiet:
            if self._bars:
                self._bars.console.print(text, markup=False, highlight=False)
            else:
                print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Say one line to the person who asked for more."""
        if self._verbose:
            self.tell(text)

    def finished(self, path: Path) -> None:
        """Name a finished file to whoever reads standard output."""
        print(path, flush=True)
