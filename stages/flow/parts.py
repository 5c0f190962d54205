"""Which parts there are to make: one per input shard, or slices of one index."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from stages.errors import BadData, CannotCreate, MissingInput, UsageError
from stages.flow.execution import Output
from stages.shards import Shard, check_name, check_same_run, expand, missing_parts, numbered, shard_name


@dataclass(frozen=True)
class Part:
    """One shard to make: from which source (and which of its positions), as which part, to which path."""

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
    """Turns a stream of paths into parts, and knows at its end which are missing."""

    def __init__(self, paths: Iterable[str | None], output: Output, kind: str, *, reads: tuple[str, ...],
                 shard_size: int, index: str | None) -> None:
        self._paths, self._output, self._kind = paths, output, kind
        self._reads, self._shard_size, self._index = reads, shard_size, index
        self._seen: set[int] = set()
        self._total = 0
        self._first: Shard | None = None

    def __iter__(self) -> Iterator[Part | None]:
        """Yield the parts of this task as their sources come in, and None whenever there is none yet.

        Raises what is wrong with a source.
        """
        others = False
        for path in self._paths:
            if path is None:
                yield None
                continue
            for file in expand(path):
                if self._of_others(file):
                    others = True
                    continue
                source = Shard(file, self._reads)
                self._agree(source)
                for part in self._cut(source):
                    if part.number in self._seen:
                        raise BadData(f"part {part.number} is there twice", "give each shard once",
                                      where=str(source.path))
                    self._seen.add(part.number)
                    if self._output.mine(part.number):
                        yield part
                source.close()
        if self._first is None and not others:
            raise MissingInput("no input", "give shards, or their paths on standard input")

    def _of_others(self, file: Path) -> bool:
        """Say whether the name tells that another task makes this part: 64 tasks need not all open all shards."""
        name = numbered(file)
        return name is not None and name[2] > 1 and not self._output.mine(name[1])

    def missing(self) -> str:
        """Return the parts that never came, as text; always empty for one task of many."""
        return "" if self._output.task else missing_parts(self._seen, self._total)

    def _agree(self, source: Shard) -> None:
        check_name(source)
        self._first = self._first or source
        check_same_run(source, self._first)

    def _cut(self, source: Shard) -> Iterator[Part]:
        index_path = find_index(source, self._index)
        if source.kind == "index" and source.parts == 1:
            size = self._shard_size
            self._total = max(1, -(-len(source.ids) // size))
            spans = [(part * size, min(len(source.ids), (part + 1) * size)) for part in range(self._total)]
            numbered = list(enumerate(spans))
        else:
            self._total = source.parts
            numbered = [(source.part, (0, len(source.ids)))]
        for number, (start, stop) in numbered:
            path = self._path(number, len(source.ids))
            yield Part(source.path, number, self._total, start, stop, path, index_path)

    def _path(self, number: int, images: int) -> Path:
        if not self._output.is_file:
            return self._output.path / shard_name(self._kind, number, self._total)
        if self._total > 1:
            raise UsageError(f"-o {self._output.path} is one file, but there are {self._total} parts",
                             f"give a folder, or --shard-size {images}")
        return self._output.path


def place_of(output: Output, kind: str, part: int, parts: int) -> Path:
    """Return where a part goes: the one file that is the output, or its name in the folder."""
    return output.path if output.is_file else output.path / shard_name(kind, part, parts)


def beside_alone(path: Path) -> list[Path]:
    """Return the shards that are in the folder of a part that is to be made; none for an output of one file.

    Raises CannotCreate when there is one of another kind or another number of parts: a folder is read as one run.
    """
    own = numbered(path)
    if own is None or not path.parent.is_dir():
        return []
    beside = {other: name for other in sorted(path.parent.iterdir()) if (name := numbered(other)) is not None}
    for other, (kind, _, parts) in beside.items():
        if (kind, parts) != (own[0], own[2]):
            raise CannotCreate(f"would be put beside {other.name}, of a run of {parts} parts of {kind}",
                               "give another -o, or move those away", where=str(path))
    return list(beside)


def find_index(source: Shard, given: str | None) -> Path:
    """Return the index file behind a shard: itself, the one given, or the one that it names.

    Raises MissingInput when it is not there, BadData when its digest is not the one on record.
    """
    if source.kind == "index":
        return source.path
    named = source.path.parent / source.attribute("index_path")
    candidates = expand(given) if given else [Path(os.path.normpath(named))]
    if not candidates[0].exists():
        raise MissingInput("its index is not there", "give --index FILE", where=f"{source.path}: {candidates[0]}")
    for candidate in candidates:
        if _index_digest(candidate, candidate.stat().st_ino, candidate.stat().st_mtime_ns) == source.index_digest:
            return candidate
    raise BadData("is not the index that this shard was made from (its digest differs)",
                  "give the right --index, or make the shard again", where=f"{candidates[0]} for {source.path}")


@lru_cache(maxsize=4096)
def _index_digest(path: Path, _inode: int, _changed: int) -> str:
    """Return the digest of an index; a run of 1,000 shards asks for the same one 1,000 times."""
    return Shard(path, "index").digest
