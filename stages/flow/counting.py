"""Counts over all images of a command: in this process, in several, or divided over the tasks of a job array.

Counts are arrays by name. Those of a name that begins with `sum.` add up, and those with `all.` are joined in the order
of the images; both are integers, so that the result does not depend on how the images are divided. The counts of a task
wait in a folder beside the output until those of all tasks are there.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import OutOfMemory, Stopped, UsageError
from stages.flow.execution import Output, Report, Stop
from stages.flow.worker_processes import kill_workers, tie_to_parent
from stages.shards.disk import make_folder, replace_file

Counts = dict[str, np.ndarray]
Advance = Callable[[], None]
# Counts the images at some positions; calls the function once per image, which raises Stopped after a signal.
CountShare = Callable[[range, Advance], Counts]
_REQUEST = "request"
_SHARES_PER_PROCESS = 4  # so that the progress moves, and processes end at about the same time


class PartsMissing(Exception):
    """The counts of this task are written, those of other tasks are missing; `args[0]` tells the user."""


@dataclass(frozen=True)
class Counting:
    """How the images of a command are divided; `request` is what the counts depend on, as JSON.

    `task` is (I, N), None without tasks. With tasks, `folder` holds their counts.
    """

    stop: Stop
    report: Report
    jobs: int = 1
    task: tuple[int, int] | None = None
    folder: Path = field(default_factory=Path)
    request: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False

    def count(self, name: str, count_share: CountShare, num_images: int, *, is_second_pass: bool = False) -> Counts:
        """Return the counts of all images. Raises PartsMissing if those of other tasks are not there, Stopped.

        `name` tells apart several passes of a command, and is part of a file name. Before a second pass all tasks have
        made the first, so they have to be started once more.
        """
        if self.task is None:
            return self._count_positions(count_share, range(num_images))
        number, num_tasks = self.task
        path = self._get_path(name, number)
        if self.force or self._read(path, num_images) is None:
            share = range(number * num_images // num_tasks, (number + 1) * num_images // num_tasks)
            make_folder(path.parent)
            replace_file(path, self._encode(self._count_positions(count_share, share), num_images))
        parts = [self._read(self._get_path(name, other), num_images) for other in range(num_tasks)]
        missing = [str(other) for other, part in enumerate(parts) if part is None]
        if missing:
            tasks = f"{'tasks' if len(missing) > 1 else 'task'} {_join_shortened(missing)}"
            raise PartsMissing(
                f"Task {number} of {num_tasks} is done with the second pass. Start the others once more, as they have "
                f"made the first only: {tasks}." if is_second_pass else
                f"Task {number} of {num_tasks} is done. The last one writes the result; missing: {tasks}.")
        return merge_counts([part for part in parts if part is not None])

    def remove_parts(self) -> None:
        """Remove the counts of all tasks, after the result was written."""
        if self.task is None or not self.folder.is_dir():
            return
        for path in self.folder.glob("*-of-*.npz"):
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _get_path(self, name: str, number: int) -> Path:
        return self.folder / f"{name}-{number:05d}-of-{0 if self.task is None else self.task[1]:05d}.npz"

    def _encode(self, counts: Counts, num_images: int) -> bytes:
        request = json.dumps({**self.request, "images": num_images}, sort_keys=True)
        stream = io.BytesIO()
        np.savez(stream, **{_REQUEST: np.frombuffer(request.encode(), np.uint8)}, **counts)
        return stream.getvalue()

    def _read(self, path: Path, num_images: int) -> Counts | None:
        """Return the counts of a task; None if they are not there, damaged, or of other inputs or settings."""
        request = json.dumps({**self.request, "images": num_images}, sort_keys=True)
        try:
            with np.load(path, allow_pickle=False) as stored:
                counts = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return counts if counts.pop(_REQUEST, np.zeros(0, np.uint8)).tobytes() == request.encode() else None

    def _count_positions(self, count_share: CountShare, positions: range) -> Counts:
        self.report.start_progress("", len(positions))
        jobs = min(self.jobs, len(positions))
        if jobs <= 1:
            return count_share(positions, self._advance)
        shares = _divide(positions, jobs * _SHARES_PER_PROCESS)
        pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"),
                                   initializer=_init_worker_process, initargs=(count_share, os.getpid()))
        try:
            return merge_counts(list(self._collect(pool.map(_count_in_worker, shares), shares)))
        except BrokenProcessPool:
            kill_workers()
            raise OutOfMemory("a worker process was killed, probably by the system because memory ran out",
                              "Run the same command again with a smaller -j") from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _collect(self, results: Iterable[Counts], shares: Sequence[range]) -> Iterable[Counts]:
        for counts, share in zip(results, shares, strict=True):
            self._check_stop()
            self.report.advance(len(share))
            yield counts

    def _advance(self) -> None:
        self._check_stop()
        self.report.advance()

    def _check_stop(self) -> None:
        if self.stop.requested:
            raise Stopped("stopped before the end", "Run the same command again")


def divide_counting(output: Output, request: Mapping[str, Any], stop: Stop, report: Report, *,
                    has_output: bool = True) -> Counting:
    """Return how a command counts, given its options. Raises UsageError for tasks without an output file."""
    if output.task is not None and not has_output:
        raise UsageError("--task needs a file for the result of all tasks", "Add -o FILE, the same for every task")
    folder = Path(f"{output.path}.parts")
    return Counting(stop, report, max(1, output.jobs), output.task, folder, request, output.force)


def merge_counts(parts: Sequence[Counts]) -> Counts:
    """Return the counts of all images, given those of successive shares of them."""
    return {name: np.sum([part[name] for part in parts], axis=0) if name.startswith("sum.")
            else np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _divide(positions: range, num_shares: int) -> list[range]:
    edges = [len(positions) * number // num_shares for number in range(num_shares + 1)]
    return [positions[start:stop] for start, stop in pairwise(edges) if start < stop]


def _join_shortened(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


_count_share: CountShare | None = None  # of a worker process


def _init_worker_process(count_share: CountShare, parent: int) -> None:
    global _count_share
    tie_to_parent(parent)
    _count_share = count_share


def _count_in_worker(positions: range) -> Counts:
    assert _count_share is not None
    return _count_share(positions, lambda: None)
