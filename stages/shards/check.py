"""Finds whatever is damaged in a shard: every dataset, every attribute, and the digest over all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stages.errors import BadData, WsssError
from stages.shards.digest import digest_of
from stages.shards.items import group_name
from stages.shards.reader import Shard, answering
from stages.shards.schema import COMMON_ROOT, KINDS


def check_shard(path: Path) -> Iterator[WsssError]:
    """Yield every fault of one shard; a good one yields none."""
    try:
        shard = Shard(path)
        yield from _faults(shard)
    except WsssError as error:
        yield error


def _faults(shard: Shard) -> Iterator[WsssError]:
    kind = KINDS[shard.kind]
    for array in (*COMMON_ROOT, *kind.root):
        if array.required:
            shard.root(array.name)
    for number, item_id in enumerate(shard.ids):
        if item_id in shard.ids[:number]:
            yield BadData(f"the id {item_id} is there twice", "make the shard again", where=str(shard.path))
    found_item_fault = False
    for item_id in shard.ids if kind.item else ():
        try:
            shard.item(item_id)
        except WsssError as error:
            found_item_fault = True
            yield error
    if kind.item:
        known = {group_name(item_id) for item_id in shard.ids}
        with answering(shard.path):
            for name in set(shard.file["items"]) - known:
                yield BadData(f"the group items/{name} has no id", "make the shard again", where=str(shard.path))
    if not found_item_fault:
        with answering(shard.path):
            if digest_of(shard.file) != shard.digest:
                yield BadData("its contents don't match its digest", "make the shard again",
                              where=str(shard.path))


