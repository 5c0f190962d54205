"""Repairs a damaged shard: moves its intact items to a journal, so that a rerun remakes only the damaged ones."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from stages.errors import BadData, MissingInput, explain_write_error
from stages.shards.disk import sync_folder
from stages.shards.items import Item
from stages.shards.journal import Journal, recover_items, unfinished_path
from stages.shards.reader import NewerFormat, Shard
from stages.shards.run import parse_shard_name
from stages.shards.schema import COMMON_ROOT, KINDS


@dataclass(frozen=True)
class SalvageResult:
    """The outcome for a damaged shard, which was moved to `damaged_path`.

    `num_sound` of its `num_items` items were intact and are in its journal.
    """

    num_sound: int
    num_items: int
    damaged_path: Path


def salvage_shard(path: Path, *, dry_run: bool = False) -> SalvageResult:
    """Copy the intact items of a damaged shard to its journal and rename the shard, so that it can be made again.

    With `dry_run` nothing is changed, and the result that would follow is returned.

    An item is intact when all its checksums hold. Nothing is kept of a shard in which no checksum fails (only its
    digest shows that something was changed), of kinds without items, and of an index, which has no journal.
    Raises BadData for a file that cannot be identified as a shard or has a newer format, Stopped when another process
    is writing the shard, CannotCreate when its journal holds other work, IoFailed.
    """
    sound_items, num_items = {}, 0
    if not os.access(path, os.R_OK):
        raise BadData("can't be repaired, because it is not readable", "Change its permissions with chmod",
                      where=str(path))
    try:
        shard = Shard(path)
        ids, request = shard.ids, shard.request
    except NewerFormat:
        raise
    except (BadData, MissingInput) as error:
        if parse_shard_name(path) is None:
            raise BadData(f"can't be repaired: {error.message}", "Remove it and make it again",
                          where=str(path)) from None
    else:
        num_items = len(ids)
        sound_items = _read_sound_items(shard) if KINDS[shard.kind].item and shard.kind != "index" else {}
        shard.close()
        if sound_items and dry_run:
            _check_journal(unfinished_path(path), request)
        elif sound_items:
            _store_in_journal(unfinished_path(path), request, sound_items)
    damaged_path = path.with_name(path.name + ".damaged")
    if not dry_run:
        _rename(path, damaged_path)
    return SalvageResult(len(sound_items), num_items, damaged_path)


def _read_sound_items(shard: Shard) -> dict[int, Item]:
    """Return the items whose checksums hold, by position; none if no checksum shows where the damage is."""
    errors, is_damage_located = {}, not _is_root_sound(shard)
    try:
        errors = shard.errors
    except (BadData, MissingInput):
        is_damage_located = True
    items: dict[int, Item] = {}
    for position, item_id in enumerate(shard.ids):
        try:
            error = errors.get(item_id)
            items[position] = shard.stored_item(item_id) if error is None else Item(item_id, error=error)
        except (BadData, MissingInput):
            is_damage_located = True
    has_duplicates = max(Counter(shard.ids).values(), default=1) > 1
    return items if is_damage_located and not has_duplicates else {}


def _is_root_sound(shard: Shard) -> bool:
    try:
        for array in (*COMMON_ROOT, *KINDS[shard.kind].root):
            if array.required:
                shard.read_root(array.name)
    except (BadData, MissingInput):
        return False
    return True


def _store_in_journal(path: Path, request: dict, items: dict[int, Item]) -> None:
    journal = Journal(path, request)
    try:
        journal.append((position, item) for position, item in items.items() if position not in journal.items)
        journal.sync()
    finally:
        journal.close()


def _check_journal(path: Path, request: dict) -> None:
    """Raise CannotCreate when an existing journal holds the work of another request."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain_write_error(error, path) from None
    recover_items(data, request, path)


def _rename(path: Path, new_path: Path) -> None:
    try:
        os.replace(path, new_path)
        sync_folder(path.parent)
    except OSError as error:
        raise explain_write_error(error, path) from None
