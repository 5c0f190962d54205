"""Execution of a command (inputs, output, tasks, progress, signals), as opposed to its settings; not stored in shards.

Uses only the standard library: the command line builds these objects before it imports anything heavy.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os.path import realpath
from pathlib import Path
from typing import Protocol

from stages.errors import CannotCreate, UsageError

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf")


@dataclass(frozen=True)
class Inputs:
    """The inputs of a stage: the paths of its main input (which may be a live stream) and further, named inputs."""

    paths: Iterable[str]
    named: Mapping[str, str | None] = field(default_factory=dict)
    index: str | None = None
    root: str | None = None

    def require(self, name: str) -> str:
        """Return the named input; raise UsageError if it was not given."""
        value = self.named.get(name)
        if value is None:
            raise UsageError(f"--{name} is missing", f"Add --{name} FILE")
        return value


@dataclass(frozen=True)
class Output:
    """Where the output is written, how existing outputs are treated, and how the work is distributed.

    `is_left_out` tells that the user gave no output, and the command chooses one. `reuse` is a run whose unchanged
    items are taken over. `profile` is a file that says what took how long.
    """

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
    tensorboard: Path | None = None
    keep_going: bool = False
    is_left_out: bool = False
    reuse: str | None = None
    profile: Path | None = None

    def __post_init__(self) -> None:
        """Raise UsageError if `allow_errors` is neither a count nor a percentage.

        Raises CannotCreate if `log` or `profile` is a file of another kind, or can't be written.
        """
        Summary().has_more_errors_than(self.allow_errors)
        for path, option in ((self.log, "--log"), (self.profile, "--profile")):
            if path is not None:
                check_log_path(path, option, create=not self.dry_run)

    @property
    def is_file(self) -> bool:
        """True if the output is one shard file, not a folder."""
        return self.path.suffix == ".h5"

    @property
    def log_path(self) -> Path:
        """The log of times, hosts and commands, which are not stored in shards."""
        is_file = self.path.suffix in (".h5", ".safetensors")
        return self.log or (self.path.with_suffix(".log.jsonl") if is_file else self.path / "log.jsonl")

    def check_not_folder(self) -> None:
        """Raise CannotCreate if the output is an existing folder, for commands that write one file."""
        if self.path.is_dir():
            raise CannotCreate("is a folder, but this command writes one file", "Give a file name as --output",
                               where=str(self.path))

    def check_not_input(self, inputs: Inputs) -> None:
        """Raise UsageError if the output file is also an input."""
        input_paths = [*(inputs.paths if isinstance(inputs.paths, list) else []), *inputs.named.values(), inputs.index]
        # An input may be a list of words, longer than any path: `is_file` would raise OSError, realpath does not.
        if self.path.is_file() and any(path and realpath(path) == realpath(self.path) for path in input_paths):
            raise UsageError(f"-o {self.path} is also an input and would be replaced", "Choose another --output")

    def is_assigned(self, part: int) -> bool:
        """Return whether this task handles a part: `part % N == I`."""
        return self.task is None or part % self.task[1] == self.task[0]


def check_picture_path(path: str | Path, option: str = "-o") -> None:
    """Raise UsageError if the path of a picture to be written does not end in one of PICTURE_SUFFIXES."""
    if Path(path).suffix.lower() not in PICTURE_SUFFIXES:
        *first, last = PICTURE_SUFFIXES
        raise UsageError(f"{option} {path} does not end in {', '.join(first)} or {last}, the formats for pictures",
                         f"Use for example {option} FILE.png")


def check_table_path(path: str | Path, option: str = "-o", content: str = "a table") -> None:
    """Raise UsageError if the path of a table to be written is the name of a shard or a network."""
    if Path(path).suffix in (".h5", ".safetensors"):
        name = "--output" if option == "-o" else option
        raise UsageError(f"{option} {path} is the name of a shard or a network, but this command writes {content}",
                         f"Choose another {name}")


def check_json_path(path: str | Path, option: str) -> None:
    """Raise UsageError or CannotCreate unless `path` is new, or an earlier object of JSON that may be replaced."""
    check_table_path(path, option, "JSON to it")
    if Path(path).is_file() and _read_first_byte(Path(path)) not in (b"{", b""):
        raise CannotCreate(f"does not hold JSON, so {option} would replace a file of another kind",
                           f"Give another file as {option}", where=str(path))


def _read_first_byte(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(1)


def check_log_path(path: Path, option: str, *, create: bool = True) -> None:
    """Raise CannotCreate unless lines of JSON can be appended to `path`: it is new, empty, or begins with one.

    With `create` a new file is made at once, with its folder: later errors of the disk end no work.
    """
    remedy = f"Give another file, such as {option} {option.strip('-')}.jsonl"
    if path.suffix in (".h5", ".safetensors") or path.is_dir():
        kind = "a folder" if path.is_dir() else "the name of a shard or a network"
        raise CannotCreate(f"is {kind}, but {option} writes lines of JSON", remedy, where=str(path))
    try:
        if path.is_file() and _read_first_byte(path) not in (b"{", b""):
            raise CannotCreate(f"does not hold lines of JSON, so {option} would damage it", remedy, where=str(path))
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()
    except OSError as error:
        is_file = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "its folder is a file" if is_file else error.strerror
        raise CannotCreate(f"can't be written by {option} ({reason})", remedy, where=str(path)) from None


@dataclass
class Summary:
    """Counts of what a command did: shards written and up to date, images, failed images, images reduced in size.

    Of the failed images, `num_inherited` had failed in the input before, such as in the file `failed_input`. Of the
    images in written shards, `num_reused` were taken over from another run, the others not. `work` says what was done
    instead of images, such as "8 epochs"; `written_noun` what was written instead of shards. `contents` is what `index`
    says of the images of an index, as `--summary-json` writes it.
    """

    num_written: int = 0
    num_up_to_date: int = 0
    num_images: int = 0
    num_failed: int = 0
    num_inherited: int = 0
    failed_input: str = ""
    num_reduced: int = 0
    num_reused: int = 0
    num_not_reused: int = 0
    work: str = ""
    written_noun: str = "shard"
    contents: Mapping[str, object] | None = None

    def add(self, other: Summary) -> None:
        """Add the counts of another summary."""
        self.num_written += other.num_written
        self.num_up_to_date += other.num_up_to_date
        self.num_images += other.num_images
        self.num_failed += other.num_failed
        self.num_inherited += other.num_inherited
        self.failed_input = self.failed_input or other.failed_input
        self.num_reduced += other.num_reduced
        self.num_reused += other.num_reused
        self.num_not_reused += other.num_not_reused

    def has_more_errors_than(self, allowed: str) -> bool:
        """Return whether more images failed than `allowed` (a count, or a percentage such as 1%)."""
        percentage = re.fullmatch(r"(\d+\.?\d*|\.\d+)%", allowed)
        if percentage:
            return self.num_failed * 100 > float(percentage[1]) * self.num_images
        if not re.fullmatch(r"\d+", allowed):
            raise UsageError(f"--allow-errors {allowed!r} is neither a count nor a percentage",
                             "Use a value such as 3 or 1%")
        return self.num_failed > int(allowed)


class Report(Protocol):
    """Receives the progress of a stage; the command line shows it, tests collect it."""

    def start_phase(self, label: str) -> None:
        """Show what the stage is doing now, such as "loading weights"; "" if the progress count says it all."""

    def start_progress(self, label: str, total: int | None, *, unit: str = "images") -> None:
        """Start a progress count of `total` units (None if unknown); `label` is the phase, "" for the main work."""

    def set_total(self, total: int, expected: int | None = None) -> None:
        """Set the total known so far; `expected` is an estimate of the final total, None if this one is final."""

    def advance(self, count: int = 1, *, resumed: bool = False) -> None:
        """Advance the progress count; `resumed` units were finished by an earlier run and do not count for the rate."""

    def info(self, text: str) -> None:
        """Show one line to the user."""

    def debug(self, text: str) -> None:
        """Show one line to a user who asked for details (-v)."""

    def print_path(self, path: Path) -> None:
        """Print the path of a finished file on standard output."""


class SilentReport:
    """A report that ignores everything."""

    def start_phase(self, label: str) -> None:
        """Ignore the phase."""

    def start_progress(self, label: str, total: int | None, *, unit: str = "images") -> None:
        """Ignore the start."""

    def set_total(self, total: int, expected: int | None = None) -> None:
        """Ignore the total."""

    def advance(self, count: int = 1, *, resumed: bool = False) -> None:
        """Ignore the count."""

    def info(self, text: str) -> None:
        """Ignore the line."""

    def debug(self, text: str) -> None:
        """Ignore the line."""

    def print_path(self, path: Path) -> None:
        """Ignore the path."""


class Stop:
    """A request to stop after the current batch, set by a signal; a second Ctrl-C exits at once with 130."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

    def __init__(self, before_exit: Callable[[], None] = lambda: None) -> None:
        """`before_exit` is called before a second Ctrl-C ends the process."""
        self.requested = False
        self._before_exit = before_exit

    def install_handlers(self) -> None:
        """Handle the signals from now on. The handler only sets a flag: it interrupts no call of h5py or torch."""
        for number in self.SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _frame: object) -> None:
        if self.requested and number == signal.SIGINT:
            import os
            self._before_exit()
            os._exit(130)
        self.requested = True


def parse_task(text: str | None) -> tuple[int, int] | None:
    """Return (I, N) of `--task I/N`; raise UsageError unless 0 <= I < N."""
    if text is None:
        return None
    task, slash, num_tasks = text.partition("/")
    if not (slash and task.isdecimal() and num_tasks.isdecimal() and int(task) < int(num_tasks)):
        raise UsageError(f"--task {text} is not I/N with 0 <= I < N", "Use for example --task 3/64")
    return int(task), int(num_tasks)
