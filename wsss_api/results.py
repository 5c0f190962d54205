"""What a command returns in Python, and the error for one whose images failed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.errors import BadData

if TYPE_CHECKING:
    from wsss_api.runs import Run


@dataclass(frozen=True)
class Result:
    """What a command did: the files that it wrote or found up to date, its messages, and counts of images and files.

    `value` is what the command prints as JSON (eval, info, log, cooc, prompts, check), for index the summary that
    `--summary-json` writes, and None for the others. A result can be passed as the input of another command.
    """

    command: str
    paths: tuple[Path, ...]
    output: Path | None = None
    value: Any = field(default=None, repr=False)
    messages: tuple[str, ...] = field(default=(), repr=False)
    num_images: int = 0
    num_failed: int = 0
    num_reduced: int = 0
    num_written: int = 0
    num_up_to_date: int = 0
    num_reused: int = 0

    @property
    def path(self) -> Path:
        """The output: the file or folder that later commands read. Raises BadData if the command wrote none."""
        if self.output is None:
            raise BadData(f"{self.command} has no output file", "Use `paths` or `value`")
        return self.output

    def open(self) -> Run[Any]:
        """Open the run that was written, as `wsss.open_run` does."""
        from wsss_api.runs import open_run
        return open_run(self)


class FailedImages(BadData):
    """A command finished, but more images failed than `allow_errors`. `result` is what it did."""

    result: Result

    @classmethod
    def build(cls, result: Result, options: Collection[str]) -> FailedImages:
        """Build the error for a result of a command that has these options."""
        again = "retry=True" if "retry" in options else "force=True"
        remedy = ("List them with result.open().errors, where result is the `result` of this error. Fix them and call "
                  f"the function again with {again}, or accept them with allow_errors" if "allow_errors" in options
                  else "Read the messages of the `result` of this error. The other images are complete")
        error = cls(f"{result.num_failed} of {result.num_images} images failed", remedy, where=result.command)
        error.result = result
        return error
