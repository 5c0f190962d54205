"""Writes the lines of a training log as TensorBoard events as well (`--tensorboard DIR`)."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from stages.errors import Unavailable, explain_write_error
from stages.flow.execution import Report
from stages.shards.disk import make_folder


class EventWriter:
    """Writes scalars to a new event file in a folder.

    Each start writes a file of its own. The start of one that resumes says from which step on the values of earlier
    files are void, so that TensorBoard shows no step twice, also after a kill between a log line and its checkpoint.
    """

    def __init__(self, folder: Path, first_step: int, report: Report) -> None:
        """Open the file; `first_step` is the number of steps already done.

        Raises Unavailable without the package tensorboard, CannotCreate or IoFailed if the folder can't be written.
        """
        check_tensorboard(folder)
        from tensorboard.summary.writer.record_writer import RecordWriter
        self.folder, self._report = folder, report
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time_ns() // 1_000_000_000:010d}.{platform.node()}.{os.getpid()}.0"
        try:
            self._file: BinaryIO | None = (folder / name).open("ab")
        except OSError as error:
            raise explain_write_error(error, folder / name) from None
        self._records = RecordWriter(self._file)
        self._write_events({"file_version": "brain.Event:2"},
                           {"step": first_step + 1, "session_log": {"status": "START"}})

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write named values at a step."""
        values = [{"tag": name, "simple_value": value} for name, value in scalars.items()]
        self._write_events({"step": step, "summary": {"value": values}})

    def _write_events(self, *events: dict[str, Any]) -> None:
        """Append events to the file. A disk that fails ends the events, with a message, but not the training."""
        from google.protobuf.json_format import ParseDict
        from tensorboard.compat.proto.event_pb2 import Event
        if self._file is None:
            return
        try:
            for event in events:
                self._records.write(ParseDict({**event, "wall_time": time.time()}, Event()).SerializeToString())
            self._file.flush()
        except OSError as error:
            self._report.info(f"warning: {self.folder}: TensorBoard events can't be written ({error.strerror or error})"
                              "; the training goes on without them.")
            self.close()

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def name_scalars(losses: Mapping[str, float], metrics: Mapping[str, float], seconds: float) -> dict[str, float]:
    """Return the values of a log line by the names that TensorBoard groups them by: loss/, metric/, learning_rate."""
    return {**{f"loss/{name}": value for name, value in losses.items() if name != "lr"},
            **{f"metric/{name}": value for name, value in metrics.items()},
            "learning_rate": losses["lr"], "seconds": seconds}


def check_tensorboard(folder: Path | None) -> None:
    """Raise what an `EventWriter` would raise, before any work; do nothing if the folder is None."""
    if folder is not None:
        _check_package()
        _check_writable(folder)


def _check_package() -> None:
    try:
        from tensorboard.summary.writer import record_writer  # noqa: F401
    except ImportError as error:
        reason = "is not installed" if isinstance(error, ModuleNotFoundError) else f"can't be loaded ({error})"
        raise Unavailable(f"--tensorboard needs the package tensorboard, which {reason}",
                          "Install it with `pip install 'wsss[tensorboard]'`, or leave out --tensorboard") from None


def _check_writable(folder: Path) -> None:
    """Create the folder and, for a moment, a file in it."""
    make_folder(folder)
    try:
        descriptor, name = tempfile.mkstemp(prefix=".wsss-", dir=folder)
        os.close(descriptor)
        Path(name).unlink()
    except OSError as error:
        raise explain_write_error(error, folder) from None
