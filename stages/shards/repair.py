"""Takes what is sound out of a damaged shard, so that the command that made it makes only the rest again."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from stages.errors import BadData, MissingInput, refused_write
from stages.shards.disk import sync_folder
from stages.shards.items import Item
from stages.shards.journal import Journal, part_path, taken_over
from stages.shards.reader import NewerFormat, Shard
from stages.shards.run import numbered
from stages.shards.schema import COMMON_ROOT, KINDS


@dataclass(frozen=True)
class Salvage:
    """What became of a damaged shard: `kept` of its `total` items lie in its journal, itself lies at `moved`."""

    kept: int
    total: int
    moved: Path


def salvage(path: Path, *, dry_run: bool = False) -> Salvage:
    """Put the sound items of a damaged shard into its journal, and the shard out of the way of its next making.

    With `dry_run` nothing is changed, and what would become of it is returned.

    An item is sound when all its checksums hold. Nothing is kept of a shard in which no checksum fails (its digest
    alone tells that something was changed), of kinds without items, and of an index, which has no journal.
    Raises BadData for a file of which can't be told that it is a shard, or that has a newer format, Stopped when a
    process is at work on it, CannotCreate when its journal holds other work, IoFailed.
    """
    sound, total = {}, 0
    if not os.access(path, os.R_OK):
        raise BadData("can't be repaired: it may not be read", "see to its rights", where=str(path))
    try:
        shard = Shard(path)
        ids, request = shard.ids, shard.request
    except NewerFormat:
        raise
    except (BadData, MissingInput) as error:
        if numbered(path) is None:
            raise BadData(f"can't be repaired: {error.what}", "remove it, and make it again", where=str(path)) from None
    else:
        total = len(ids)
        sound = _sound(shard) if KINDS[shard.kind].item and shard.kind != "index" else {}
        shard.close()
        if sound and dry_run:
            _check_journal(part_path(path), request)
        elif sound:
            _keep(part_path(path), request, sound)
    place = path.with_name(path.name + ".damaged")
    if not dry_run:
        _move(path, place)
    return Salvage(len(sound), total, place)


def _sound(shard: Shard) -> dict[int, Item]:
    """Return the items whose checksums hold, by position; none where no checksum tells what is damaged."""
    errors, located = {}, not _root_is_sound(shard)
    try:
        errors = shard.errors
    except (BadData, MissingInput):
        located = True
    sound: dict[int, Item] = {}
    for position, item_id in enumerate(shard.ids):
        try:
            error = errors.get(item_id)
            sound[position] = shard.stored(item_id) if error is None else Item(item_id, error=error)
        except (BadData, MissingInput):
            located = True
    twice = max(Counter(shard.ids).values(), default=1) > 1
    return sound if located and not twice else {}


def _root_is_sound(shard: Shard) -> bool:
    try:
        for array in (*COMMON_ROOT, *KINDS[shard.kind].root):
            if array.required:
                shard.root(array.name)
    except (BadData, MissingInput):
        return False
    return True


def _keep(path: Path, request: dict, sound: dict[int, Item]) -> None:
    journal = Journal(path, request)
    try:
        journal.append((position, item) for position, item in sound.items() if position not in journal.items)
        journal.sync()
    finally:
        journal.close()


def _check_journal(path: Path, request: dict) -> None:
    """Raise CannotCreate when the journal that is there holds other work."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise refused_write(error, path) from None
    taken_over(data, request, path)


def _move(path: Path, place: Path) -> None:
    try:
        os.replace(path, place)
        sync_folder(path.parent)
    except OSError as error:
        raise refused_write(error, path) from None
