"""Counts of what a command has done, and its speed over the last seconds."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

_RATE_SECONDS = 30.0  # the rate is that of the last 30 s
_SAMPLE_SECONDS = 0.2  # counts that follow each other faster become one sample


@dataclass(frozen=True)
class Snapshot:
    """The progress of a command at one moment.

    `phase` says what it is doing, "" if the counts say it all; `phase_start` is in monotonic seconds, which all
    processes of a machine share. `total` is None if unknown. `expected` is an estimate of the final total if `total` is
    only what is known so far, otherwise None. `rate` is in units per second, None if there is nothing to measure yet.
    """

    name: str
    phase: str = ""
    phase_start: float = 0.0
    has_counts: bool = False
    unit: str = "images"
    done: int = 0
    total: int | None = None
    expected: int | None = None
    rate: float | None = None

    @property
    def seconds_left(self) -> float | None:
        """The time until the end at the present rate; None if the rate or the total is unknown."""
        total = self.expected or self.total
        return max(0, total - self.done) / self.rate if total and self.rate else None


class Progress:
    """The progress of this process. One thread counts, another one may take snapshots."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._snapshot = Snapshot(name, phase_start=clock())
        self.num_new = self._done = 0
        self._samples: deque[tuple[float, int]] = deque()

    @property
    def name(self) -> str:
        """The name of the command."""
        return self._snapshot.name

    def start_phase(self, label: str) -> None:
        """Note what the command is doing; the clock of the rate starts after the last phase before the first count."""
        with self._lock:
            if label != self._snapshot.phase:
                self._snapshot = replace(self._snapshot, phase=label, phase_start=self._clock())
            if not self.num_new:
                self._samples = deque([(self._clock(), 0)])

    def start_counting(self, label: str, total: int | None, unit: str) -> None:
        """Count from 0 to `total`."""
        with self._lock:
            self.num_new = self._done = 0
            phase = "" if label == self._snapshot.name else label
            self._snapshot = Snapshot(self._snapshot.name, phase, self._clock(), True, unit, total=total)
            self._samples = deque([(self._clock(), 0)])

    def set_total(self, total: int, expected: int | None) -> None:
        """Set the number known so far and, if it is not the final one, an estimate of that."""
        with self._lock:
            self._snapshot = replace(self._snapshot, total=total, expected=expected)

    def advance(self, count: int, *, resumed: bool) -> None:
        """Add to the count; what an earlier run did says nothing about the rate."""
        with self._lock:
            self._done += count
            if not resumed:
                self.num_new += count
                self._add_sample()

    def _add_sample(self) -> None:
        now, samples = self._clock(), self._samples
        if len(samples) > 1 and now - samples[-2][0] < _SAMPLE_SECONDS:
            samples.pop()
        samples.append((now, self.num_new))
        while len(samples) > 2 and samples[1][0] < now - _RATE_SECONDS:
            samples.popleft()

    def take_snapshot(self) -> Snapshot:
        """Return the present counts and rate."""
        with self._lock:
            return replace(self._snapshot, done=self._done, rate=self._compute_rate())

    def _compute_rate(self) -> float | None:
        """Return the new units per second since the oldest sample, about 30 s ago; None before the first one."""
        if not self._samples or not self.num_new:
            return None
        start, count = self._samples[0]
        now = self._clock()
        return (self.num_new - count) / (now - start) if now > start else None
