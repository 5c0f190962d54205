"""A run: the shards of one kind that belong together, given as files, as a folder, or both."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from stages.errors import BadData, MissingInput
from stages.shards.history import made_otherwise
from stages.shards.items import Item
from stages.shards.reader import Shard
from stages.shards.request import joined_digest

_NAME = re.compile(r"([a-z]+)-(\d{5})-of-(\d{5})\.h5")


def numbered(path: Path) -> tuple[str, int, int] | None:
    """Return (kind, part, parts) of a file that bears a shard's name in a run; None for any other name."""
    name = _NAME.fullmatch(path.name)
    return (name[1], int(name[2]), int(name[3])) if name else None


def expand(path: Path | str) -> list[Path]:
    """Return the shard files that an argument names: itself, or a folder's in the order of their parts."""
    place = Path(path)
    if not place.is_dir():
        if not place.exists():
            raise MissingInput("is not there", "give a shard or a folder of shards", where=str(path))
        return [place]
    found = {file: name for file in sorted(place.iterdir()) if (name := numbered(file))}
    if not found:
        raise MissingInput("holds no shards", "give a folder with files such as cams-00000-of-00004.h5",
                           where=str(path))
    series = {(kind, parts) for kind, _, parts in found.values()}
    if len(series) > 1:
        names = ", ".join(f"{kind}-*-of-{parts:05d}" for kind, parts in sorted(series))
        raise BadData(f"holds more than one run ({names})", "move or remove the old one", where=str(path))
    return list(found)


def check_name(shard: Shard) -> None:
    """Raise BadData for a shard that is named as another part of a run than it is."""
    name = numbered(shard.path)
    if name is not None and name[1:] != (shard.part, shard.parts):
        raise BadData(f"is part {shard.part} of {shard.parts}, and named otherwise", "give it its own name back",
                      where=str(shard.path))


def check_same_run(shard: Shard, first: Shard) -> None:
    """Raise BadData for a shard of another run than `first`: in kind, classes, number of parts or settings."""
    for name in ("kind", "classes", "parts"):
        if getattr(shard, name) != getattr(first, name):
            raise BadData(f"differs from {first.path} in {name}", "give shards of one run", where=str(shard.path))
    changed = made_otherwise(first.provenance, shard.provenance)
    if changed:
        raise BadData(f"was made otherwise than {first.path} ({changed})", "give the parts of one run",
                      where=str(shard.path))


def missing_parts(parts: Iterable[int], total: int) -> str:
    """Return the parts of 0..total-1 that are not among `parts`, as text; empty when none is missing."""
    absent = sorted(set(range(total)).difference(parts))
    shown = ", ".join(map(str, absent[:10]))
    return f"{shown}, ... ({len(absent)} in all)" if len(absent) > 10 else shown


class Run:
    """All shards of a run, opened one by one; items are found by id."""

    def __init__(self, paths: Iterable[Path | str], kind: str | tuple[str, ...] = (), *,
                 whole: bool = True) -> None:
        """Collect the shards at `paths` (files and folders).

        Raises MissingInput when there are none or, with `whole`, when a part is missing; BadData when two
        claim one part, or differ in classes, settings or the number of parts.
        """
        self.shards = [Shard(file, kind) for path in paths for file in expand(path)]
        if not self.shards:
            raise MissingInput("no input", "give shards, or their paths on standard input")
        first = self.shards[0]
        for shard in self.shards:
            check_name(shard)
            check_same_run(shard, first)
        numbers = [shard.part for shard in self.shards]
        twice = [number for number, count in Counter(numbers).items() if count > 1]
        if twice:
            raise BadData(f"part {min(twice)} is there twice", "give each shard once", where=str(first.path))
        holes = missing_parts(numbers, first.parts)
        if whole and holes:
            raise MissingInput(f"the run lacks part {holes} of {first.parts}", "make the missing shards",
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
        """One digest for all parts."""
        return joined_digest([shard.digest for shard in self.shards])

    @cached_property
    def places(self) -> dict[str, Shard]:
        """Where each id is."""
        return {item_id: shard for shard in self.shards for item_id in shard.ids}

    @property
    def ids(self) -> Iterator[str]:
        """All ids, part by part."""
        return (item_id for shard in self.shards for item_id in shard.ids)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self.places and item_id not in self.places[item_id].errors

    def item(self, item_id: str) -> Item:
        """Return an item by id; MissingInput when no shard has it."""
        if item_id not in self.places:
            raise MissingInput(f"no item {item_id}", "see wsss info for the ids", where=str(self.first.path))
        return self.places[item_id].item(item_id)


def same_classes(*named: tuple[str, tuple[str, ...]]) -> None:
    """Raise BadData unless all (name, classes) pairs agree, as the inputs of one command must."""
    (first, classes), *others = named
    for name, found in others:
        if found != classes:
            pairs = [f"{a!r}/{b!r}" for a, b in zip(classes, found, strict=False) if a != b]
            what = f"class {pairs[0]}" if pairs else f"{len(classes)} against {len(found)} classes"
            raise BadData(f"its classes differ from those of {first} ({what})",
                          "inputs of one command share one class list", where=name)
