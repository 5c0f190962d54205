"""Results of a benchmark: a number next to its goal, for people and as a line of JSON for `run.py`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

RESULTS_VARIABLE = "WSSS_BENCH_RESULTS"  # the file that `run.py` lets its parts append to


@dataclass(frozen=True)
class Result:
    """A measured value; `goal` None means that there is none. A ratio is a multiple of something else in the run."""

    name: str
    value: float
    unit: str
    goal: float | None = None
    higher_is_better: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the value reaches its goal, if it has one."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.higher_is_better else self.value <= self.goal

    def describe_goal(self) -> str:
        """Return the goal and whether it is met, for a table."""
        if self.goal is None:
            return "-"
        return f"{'>=' if self.higher_is_better else '<='} {self.goal:g} {'met' if self.is_met else 'NOT MET'}"


def record_results(*results: Result) -> int:
    """Append the results to the file of `run.py`, if it started this process; return 1 if a goal is not met."""
    path = os.environ.get(RESULTS_VARIABLE)
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(result)) + "\n" for result in results)
    return int(not all(result.is_met for result in results))
