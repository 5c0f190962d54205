"""Plans the parts to make: one per input shard, or slices of one index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.errors import BadData, CannotCreate, MissingInput, UsageError
from stages.flow.execution import Output
from stages.flow.index_lookup import find_index
from stages.shards import (
    Shard,
    check_same_run,
    check_shard_name,
    describe_missing_parts,
    find_shard_files,
    parse_shard_name,
    shard_name,
)


@dataclass(frozen=True)
class Part:
    """One shard to make: its source and positions start..stop-1 there, its number among `parts`, and its path."""

    source: Path
    number: int
    parts: int
    start: int
    stop: int
    path: Path
    index_path: Path

    def ids(self, source: Shard) -> tuple[str, ...]:
        """Return the ids of this part, in order."""
        return source.ids[self.start:self.stop]


class Plan:
    """Turns a stream of input paths into parts, and knows at its end which parts are missing."""

    def __init__(self, paths: Iterable[str | None], output: Output, kind: str, *, input_kinds: tuple[str, ...],
                 shard_size: int, index: str | None) -> None:
        self._paths, self._output, self._kind = paths, output, kind
        self._input_kinds, self._shard_size, self._index = input_kinds, shard_size, index
        self._part_numbers: set[int] = set()
        self._num_parts = 0
        self._first: Shard | None = None
        self._sizes: list[int] = []  # of the parts of this task that have arrived
        self._num_all_images: int | None = None  # of this task, if that is known before all parts have arrived
        self._has_ended = False

    def __iter__(self) -> Iterator[Part | None]:
        """Yield the parts of this task as their sources arrive, and None whenever none has arrived.

        Raises MissingInput, BadData or UsageError for an invalid source.
        """
        has_other_tasks = False
        for path in self._paths:
            if path is None:
                yield None
                continue
            for file in find_shard_files(path):
                if self._belongs_to_other_task(file):
                    has_other_tasks = True
                    continue
                source = Shard(file, self._input_kinds)
                self._check_source(source)
                for part in self._split_source(source):
                    if part.number in self._part_numbers:
                        raise BadData(f"part {part.number} appears twice", "Give each shard once",
                                      where=str(source.path))
                    self._part_numbers.add(part.number)
                    if self._output.is_assigned(part.number):
                        self._sizes.append(part.stop - part.start)
                        yield part
                source.close()
        self._has_ended = True
        if self._first is None and not has_other_tasks:
            raise MissingInput("no input was given", "Give shards, or their paths on standard input")

    def count_images(self) -> tuple[int, int | None]:
        """Return the number of images of this task known so far, and an estimate of all if more parts may arrive.

        All parts but the last have the same size, unless they were made by other means.
        """
        num_known = sum(self._sizes)
        first, step = self._output.task or (0, 1)
        num_parts = len(range(first, self._num_parts, step))
        if self._has_ended or len(self._sizes) == num_parts:
            return num_known, None
        if self._num_all_images is not None:
            return self._num_all_images, None
        return num_known, num_known * num_parts // len(self._sizes) if self._sizes else num_known

    def describe_waiting(self) -> str:
        """Return what the plan waits for while no path arrives."""
        if self._sizes and self.count_images() == (sum(self._sizes), None):
            return "waiting for the end of the input"
        return f"waiting for {' or '.join(self._input_kinds)}"

    def _belongs_to_other_task(self, file: Path) -> bool:
        """Return whether the name shows that another task makes this part, so that a task need not open all shards."""
        name = parse_shard_name(file)
        return name is not None and name[2] > 1 and not self._output.is_assigned(name[1])

    def describe_missing(self) -> str:
        """Return the parts that never arrived, as text; always empty for one task of many."""
        return "" if self._output.task else describe_missing_parts(self._part_numbers, self._num_parts)

    def _check_source(self, source: Shard) -> None:
        check_shard_name(source)
        self._first = self._first or source
        check_same_run(source, self._first)

    def _split_source(self, source: Shard) -> Iterator[Part]:
        index_path = find_index(source, self._index)
        if source.kind == "index" and source.parts == 1:
            size = self._shard_size
            self._num_parts = max(1, -(-len(source.ids) // size))
            spans = [(part * size, min(len(source.ids), (part + 1) * size)) for part in range(self._num_parts)]
            numbered_spans = list(enumerate(spans))
            self._num_all_images = sum(stop - start for part, (start, stop) in numbered_spans
                                       if self._output.is_assigned(part))
        else:
            self._num_parts = source.parts
            self._num_all_images = self._num_all_images or self._count_indexed_images(index_path)
            numbered_spans = [(source.part, (0, len(source.ids)))]
        for number, (start, stop) in numbered_spans:
            path = self._build_output_path(number, len(source.ids))
            yield Part(source.path, number, self._num_parts, start, stop, path, index_path)

    def _count_indexed_images(self, index_path: Path) -> int | None:
        """Return the number of images of a run of which the first part arrives; None if only all parts tell it."""
        if self._output.task is not None or self._sizes:
            return None
        index = Shard(index_path, "index")
        return index.num_images if index.parts == 1 else None

    def _build_output_path(self, number: int, num_images: int) -> Path:
        if not self._output.is_file:
            return self._output.path / shard_name(self._kind, number, self._num_parts)
        if self._num_parts > 1:
            raise UsageError(f"-o {self._output.path} is one file, but there are {self._num_parts} parts",
                             f"Give a folder as --output, or use --shard-size {num_images}")
        return self._output.path


def shard_output_path(output: Output, kind: str, part: int, parts: int) -> Path:
    """Return the path of a part: the output itself if that is one file, else its shard name in the output folder."""
    return output.path if output.is_file else output.path / shard_name(kind, part, parts)


def list_sibling_shards(path: Path) -> list[Path]:
    """Return the shards in the folder of a part that is to be made; none if the output is one file.

    Raises CannotCreate if one has another kind or another number of parts: a folder is read as one run.
    """
    part_name = parse_shard_name(path)
    if part_name is None or not path.parent.is_dir():
        return []
    siblings = {file: name for file in sorted(path.parent.iterdir()) if (name := parse_shard_name(file)) is not None}
    for sibling, (kind, _, parts) in siblings.items():
        if (kind, parts) != (part_name[0], part_name[2]):
            raise CannotCreate(f"would be in one folder with {sibling.name}, of a run of {parts} parts of {kind}",
                               "Choose another --output, or move that run away", where=str(path))
    return list(siblings)
