"""Where the messages and the progress of a function go: nowhere, to a function of the user, or to a Report."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.flow.execution import Report, SilentReport

_WARNING = "warning: "
ReportOption = Callable[[str], object] | Report | None


class CollectingReport(SilentReport):
    """Collects the messages and the paths of finished files, and passes them on to `report`."""

    def __init__(self, report: ReportOption = None) -> None:
        self.messages: list[str] = []
        self.paths: list[Path] = []
        self._is_unseen = report is None
        self._show = report if callable(report) else None
        self._report: Report = SilentReport()
        if report is not None and not callable(report):
            self._report = report
            self.start_phase, self.start_progress = report.start_phase, report.start_progress  # type: ignore[method-assign]
            self.set_total, self.advance = report.set_total, report.advance  # type: ignore[method-assign]
            self.debug = report.debug  # type: ignore[method-assign]

    def info(self, text: str) -> None:
        """Collect a message. A warning that nobody would see becomes a warning of Python."""
        self.messages.append(text)
        if self._is_unseen and text.startswith(_WARNING):
            warnings.warn(text.removeprefix(_WARNING), stacklevel=2)
        self._report.info(text)
        if self._show is not None:
            self._show(text)

    def print_path(self, path: Path) -> None:
        """Collect the path of a finished file."""
        self.paths.append(path)
        self._report.print_path(path)


@contextmanager
def restore_threads() -> Iterator[None]:
    """Restore the number of threads of torch and the precision of convolutions, which stages set for the process."""
    # As in the program: idle threads sleep instead of spinning. Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    num_threads, allows_tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
        torch.backends.cudnn.allow_tf32 = allows_tf32
