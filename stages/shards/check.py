"""Finds whatever is damaged in a shard: every dataset, every attribute, and the digest over all of them."""

from __future__ import annotations

from collections import Counter
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
    if not shard.provenance:
        yield BadData("its provenance is empty", "make the shard again", where=str(shard.path))
    for item_id in sorted(set(shard.errors) - set(shard.ids)):
        yield BadData(f"the refused item {item_id} is not among its ids", "make the shard again",
                      where=str(shard.path))
    for item_id, count in Counter(shard.ids).items():
        if count > 1:
            yield BadData(f"the id {item_id} is there {count} times", "make the shard again", where=str(shard.path))
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
