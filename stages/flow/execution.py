"""How a command is carried out, as against what it computes: none of this enters a shard.

Light on purpose (standard library only): the command line builds these before anything heavy is imported.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import Protocol

from stages.errors import CannotCreate, UsageError


@dataclass(frozen=True)
class Inputs:
    """What a stage reads: the paths of its main input (may be a live stream) and the further, named ones."""

    paths: Iterable[str]
    named: Mapping[str, str | None] = field(default_factory=dict)
    index: str | None = None
    root: str | None = None

    def require(self, name: str) -> str:
        """Return the named input; UsageError when it was not given."""
        value = self.named.get(name)
        if value is None:
            raise UsageError(f"--{name} is missing", f"give --{name} FILE")
        return value


@dataclass(frozen=True)
class Output:
    """Where the result goes, and how to go about what is already there."""

    path: Path
    force: bool = False
    retry: bool = False
    strict: bool = False
    dry_run: bool = False
    task: tuple[int, int] | None = None
    jobs: int = 0
    workers: int = 2
    allow_errors: str = "0"
    log: Path | None = None
    keep_going: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for an `allow_errors` that is neither a count nor a percentage."""
        Summary().exceeds(self.allow_errors)

    @property
    def is_file(self) -> bool:
        """True where the output is a run of one file."""
        return self.path.suffix == ".h5"

    @property
    def log_path(self) -> Path:
        """Where times, hosts and commands go, which have no place in a shard."""
        is_file = self.path.suffix in (".h5", ".safetensors")
        return self.log or (self.path.with_suffix(".log.jsonl") if is_file else self.path / "log.jsonl")

    def check_file(self) -> None:
        """Raise CannotCreate where a folder stands in the place of the one file that is to be written."""
        if self.path.is_dir():
            raise CannotCreate("is a folder, a file is to be written", "name a file", where=str(self.path))

    def check_apart(self, inputs: Inputs) -> None:
        """Raise UsageError where the file that is to be written is an input."""
        given = [*(inputs.paths if isinstance(inputs.paths, list) else []), *inputs.named.values(), inputs.index]
        # An input may be a list of words, longer than any path: realpath takes it, where `is_file` is an OSError.
        if self.path.is_file() and any(path and realpath(path) == realpath(self.path) for path in given):
            raise UsageError(f"-o {self.path} is an input too, which it would replace", "give another -o")

    def mine(self, part: int) -> bool:
        """Say whether this task handles a part: `part % N == I`."""
        return self.task is None or part % self.task[1] == self.task[0]


def check_picture(path: str | Path, option: str = "-o") -> None:
    """Raise UsageError where a picture is to be written under a name that is none of a PNG."""
    if Path(path).suffix.lower() != ".png":
        raise UsageError(f"{option} {path} is to be a picture", f"give {option} FILE.png")


def check_table(path: str | Path) -> None:
    """Raise UsageError where a table is to be written under the name of a shard or a net."""
    if Path(path).suffix in (".h5", ".safetensors"):
        raise UsageError(f"-o {path} is the name of a shard or a net, and a table is to be written",
                         "give another name")


@dataclass
class Summary:
    """What a run came to."""

    made: int = 0
    up_to_date: int = 0
    items: int = 0
    errors: int = 0

    def add(self, other: Summary) -> None:
        """Count another summary in."""
        self.made += other.made
        self.up_to_date += other.up_to_date
        self.items += other.items
        self.errors += other.errors

    def exceeds(self, allowed: str) -> bool:
        """Say whether there are more refused items than `allowed` (a count, or a share such as 1%)."""
        share = re.fullmatch(r"(\d+\.?\d*|\.\d+)%", allowed)
        if share:
            return self.errors * 100 > float(share[1]) * self.items
        if not re.fullmatch(r"\d+", allowed):
            raise UsageError(f"--allow-errors {allowed!r} is neither a count nor a percentage", "give 3 or 1%")
        return self.errors > int(allowed)


class Report(Protocol):
    """Where a stage tells of its progress; the command line shows it, a test collects it."""

    def begin(self, what: str, total: int | None) -> None:
        """Start to count `what`, of `total` where that is known."""

    def advance(self, count: int = 1) -> None:
        """Count on."""

    def tell(self, text: str) -> None:
        """Say one line to the person who waits."""

    def detail(self, text: str) -> None:
        """Say one line to the person who asked for more."""

    def finished(self, path: Path) -> None:
        """Name a finished file to whoever reads standard output."""


class Silent:
    """A report that nobody reads."""

    def begin(self, what: str, total: int | None) -> None:
        """Ignore the start."""

    def advance(self, count: int = 1) -> None:
        """Ignore the count."""

    def tell(self, text: str) -> None:
        """Ignore the line."""

    def detail(self, text: str) -> None:
        """Ignore the line."""

    def finished(self, path: Path) -> None:
        """Ignore the path."""


class Stop:
    """A request to stop at the next good place, set by a signal; a second Ctrl-C ends at once with 130."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self) -> None:
        self.requested = False

    def install(self) -> None:
        """Answer the signals from now on. The handler only sets a flag: h5py and torch calls are never cut."""
        for number in self.SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        if self.requested and number == signal.SIGINT:
            import os
            os._exit(130)
        self.requested = True


def parse_task(text: str | None) -> tuple[int, int] | None:
    """Return (I, N) of `--task I/N`; UsageError when it is not 0 <= I < N."""
    if text is None:
        return None
    first, slash, last = text.partition("/")
    if not (slash and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise UsageError(f"--task {text} is not I/N with 0 <= I < N", "give for example --task 3/64")
    return int(first), int(last)
