"""Measures what a map stage spends its time on, for `--profile`: who waits for whom in a pipe of stages."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.shards.disk import append_line

# Of a command: waiting for the shards of the stage before it, and preparing (imports, weights).
WAIT_INPUT, PREPARE = "wait_input", "prepare"
# Of a shard: opening the input, reading the journal and taking its lock; waiting for images that are still being
# decoded; computing; appending to the journal; writing the shard. Decoding happens in threads beside them.
OPEN, WAIT_IMAGES, COMPUTE, JOURNAL, WRITE, DECODE = "open", "wait_images", "compute", "journal", "write", "decode"


class PhaseTimes:
    """Adds up the seconds of each phase; several threads may measure at a time."""

    def __init__(self) -> None:
        self._started, self._cpu_started = time.perf_counter(), time.process_time()
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time that the block takes to `phase`, also if it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - started
            with self._lock:
                self._seconds[phase] = self._seconds.get(phase, 0.0) + elapsed

    def describe(self) -> dict[str, Any]:
        """Return the seconds since the start (wall and CPU of the process) and those of each phase, to milliseconds."""
        with self._lock:
            seconds = {phase: round(value, 3) for phase, value in self._seconds.items()}
        return {"seconds": round(time.perf_counter() - self._started, 3),
                "cpu_seconds": round(time.process_time() - self._cpu_started, 3), "phases": seconds}


def write_profile_line(path: Path | None, line: dict[str, Any]) -> None:
    """Append a line of JSON to the file of `--profile`, which several commands of a pipe may share."""
    if path is not None:
        text = json.dumps({**line, "process": os.getpid()}, ensure_ascii=False)
        append_line(path, text.encode(errors="backslashreplace"))
