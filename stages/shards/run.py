"""A run: the shards of one kind that belong together, given as files, folders, or both."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from stages.errors import BadData, MissingInput
from stages.shards.history import describe_provenance_differences
from stages.shards.image_records import concatenate_rows, read_image_records, read_in_training
from stages.shards.items import Item
from stages.shards.reader import Shard
from stages.shards.request import combine_digests
from stages.shards.schema import shard_name

_NAME = re.compile(r"([a-z]+)-(\d{5})-of-(\d{5})\.h5")


def parse_shard_name(path: Path) -> tuple[str, int, int] | None:
    """Return (kind, part, parts) from a file name such as cams-00003-of-00064.h5; None for any other name."""
    name = _NAME.fullmatch(path.name)
    return (name[1], int(name[2]), int(name[3])) if name else None


def find_shard_files(path: Path | str) -> list[Path]:
    """Return the shard files of an argument: the file itself, or the shards of a folder in the order of their parts."""
    file_or_folder = Path(path)
    if not file_or_folder.is_dir():
        if not file_or_folder.exists():
            raise MissingInput("does not exist", "Give a shard or a folder of shards", where=str(path))
        return [file_or_folder]
    names = {file: name for file in sorted(file_or_folder.iterdir()) if (name := parse_shard_name(file))}
    if not names:
        raise MissingInput("holds no shards", "Give a folder with files such as cams-00000-of-00004.h5",
                           where=str(path))
    runs = {(kind, parts) for kind, _, parts in names.values()}
    if len(runs) > 1:
        patterns = ", ".join(f"{kind}-*-of-{parts:05d}" for kind, parts in sorted(runs))
        raise BadData(f"holds more than one run ({patterns})", "Move or remove the old one", where=str(path))
    return list(names)


def check_shard_name(shard: Shard) -> None:
    """Raise BadData if the name of a shard claims another part or number of parts than the shard contains."""
    name = parse_shard_name(shard.path)
    if name is not None and name[1:] != (shard.part, shard.parts):
        raise BadData(f"is part {shard.part} of {shard.parts}, but its name says part {name[1]} of {name[2]}",
                      f"Rename it to {shard_name(shard.kind, shard.part, shard.parts)}", where=str(shard.path))


def check_same_run(shard: Shard, first: Shard) -> None:
    """Raise BadData if a shard differs from `first` in kind, classes, number of parts or settings."""
    for name in ("kind", "classes", "parts"):
        if getattr(shard, name) != getattr(first, name):
            raise BadData(f"differs from {first.path} in {name}", "Give only shards of one run", where=str(shard.path))
    changed = describe_provenance_differences(first.provenance, shard.provenance)
    if changed:
        raise BadData(f"was made with different settings than {first.path} ({changed})",
                      "Give only shards of one run", where=str(shard.path))


def describe_missing_parts(parts: Iterable[int], total: int) -> str:
    """Return the parts of 0..total-1 that are not among `parts`, as text; empty if none is missing."""
    missing = sorted(set(range(total)).difference(parts))
    shown = ", ".join(map(str, missing[:10]))
    return f"{shown}, ... ({len(missing)} in all)" if len(missing) > 10 else shown


class Run:
    """All shards of a run, opened one by one, with their items by id."""

    def __init__(self, paths: Iterable[Path | str], kind: str | tuple[str, ...] = (), *,
                 require_all: bool = True) -> None:
        """Collect the shards at `paths` (files and folders).

        Raises MissingInput if there are none or, with `require_all`, if a part is missing; BadData if two shards are
        the same part, or differ in classes, settings or the number of parts.
        """
        self.shards = [Shard(file, kind) for path in paths for file in find_shard_files(path)]
        if not self.shards:
            raise MissingInput("no input was given", "Give shards, or their paths on standard input")
        first = self.shards[0]
        for shard in self.shards:
            check_shard_name(shard)
            check_same_run(shard, first)
        numbers = [shard.part for shard in self.shards]
        duplicates = [number for number, count in Counter(numbers).items() if count > 1]
        if duplicates:
            raise BadData(f"part {min(duplicates)} appears twice", "Give each shard once", where=str(first.path))
        missing = describe_missing_parts(numbers, first.parts)
        if require_all and missing:
            raise MissingInput(f"the run lacks part {missing} of {first.parts}",
                               "Run the command that made it again to make the missing shards",
                               where=str(first.path.parent))

    @property
    def first(self) -> Shard:
        return self.shards[0]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.first.classes

    @property
    def kind(self) -> str:
        return self.first.kind

    @cached_property
    def digest(self) -> str:
        """The combined digest of all parts."""
        return combine_digests([shard.digest for shard in self.shards])

    @cached_property
    def shard_by_id(self) -> dict[str, Shard]:
        """The shard that contains each id."""
        return {item_id: shard for shard in self.shards for item_id in shard.ids}

    @property
    def ids(self) -> Iterator[str]:
        """The ids of all parts in order."""
        return (item_id for shard in self.shards for item_id in shard.ids)

    def read_image_records(self) -> np.ndarray | None:
        """Return the image records (N, 5) of all parts in order; None if a part has none."""
        return concatenate_rows(read_image_records, self.shards)

    def read_in_training(self) -> np.ndarray | None:
        """Return (N,) uint8, 1 for the images that the network was trained on; None if a part does not tell."""
        return concatenate_rows(read_in_training, self.shards)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self.shard_by_id and item_id not in self.shard_by_id[item_id].errors

    def item(self, item_id: str, *, exclude: tuple[str, ...] = ()) -> Item:
        """Return an item by id, without the datasets in `exclude`; raise MissingInput if no shard has it."""
        if item_id not in self.shard_by_id:
            raise MissingInput(f"the run has no item {item_id}", "List the ids with `wsss info`",
                               where=str(self.first.path))
        return self.shard_by_id[item_id].item(item_id, exclude=exclude)


def check_same_classes(*named: tuple[str, tuple[str, ...]]) -> None:
    """Raise BadData unless all (name, classes) pairs have equal classes, as the inputs of one command must."""
    (first_name, first_classes), *others = named
    for name, classes in others:
        if classes != first_classes:
            pairs = [f"{a!r}/{b!r}" for a, b in zip(first_classes, classes, strict=False) if a != b]
            difference = f"class {pairs[0]}" if pairs else f"{len(first_classes)} against {len(classes)} classes"
            raise BadData(f"its classes differ from those of {first_name} ({difference})",
                          "Give inputs that were made with the same class list", where=name)
