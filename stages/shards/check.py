"""Finds whatever is damaged in a shard: every dataset, every attribute, and the digest over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path

from stages.errors import BadData, MissingInput, Stopped, WsssError
from stages.shards.digest import digest_of
from stages.shards.items import group_name
from stages.shards.reader import Shard, answering
from stages.shards.schema import COMMON_ROOT, KINDS


def check_shard(path: Path, stopped: Callable[[], bool] = lambda: False) -> Iterator[WsssError]:
    """Yield every fault of one shard; a good one yields none.

    Raises Stopped as soon as `stopped` says so, IoFailed where the system won't let it be read: that is no fault of it.
    """
    try:
        shard = Shard(path)
        yield from _faults(shard, stopped)
    except (BadData, MissingInput) as error:
        yield error


def _faults(shard: Shard, stopped: Callable[[], bool]) -> Iterator[WsssError]:
    kind = KINDS[shard.kind]
    located = yield from _refusals(partial(shard.root, array.name) for array in (*COMMON_ROOT, *kind.root)
                                   if array.required)
    if located:
        try:
            _ = shard.ids, shard.errors
        except (BadData, MissingInput):
            return  # told above, and without them nothing is known of the items
    if not shard.provenance:
        yield BadData("its provenance is empty", "make the shard again", where=str(shard.path))
    for item_id in sorted(set(shard.errors) - set(shard.ids)):
        yield BadData(f"the refused item {item_id} is not among its ids", "make the shard again",
                      where=str(shard.path))
    for item_id, count in Counter(shard.ids).items():
        if count > 1:
            yield BadData(f"the id {item_id} is there {count} times", "make the shard again", where=str(shard.path))
    if kind.item:
        located += yield from _refusals(_until(stopped, (partial(shard.item, item_id) for item_id in shard.ids)))
        known = {group_name(item_id) for item_id in shard.ids}
        with answering(shard.path):
            for name in sorted(set(shard.file["items"]) - known):
                yield BadData(f"the group items/{name} has no id", "make the shard again", where=str(shard.path))
    if not located:
        with answering(shard.path):
            if digest_of(shard.file) != shard.digest:
                yield BadData("its contents don't match its digest", "make the shard again",
                              where=str(shard.path))


def _refusals(reads: Iterable[Callable[[], object]]) -> Generator[WsssError, None, int]:
    """Yield what each of the reads refuses, and return how many did."""
    count = 0
    for read in reads:
        try:
            read()
        except (BadData, MissingInput) as error:
            count += 1
            yield error
    return count


def _until(stopped: Callable[[], bool], reads: Iterable[Callable[[], object]]) -> Iterator[Callable[[], object]]:
    for read in reads:
        if stopped():
            raise Stopped("stopped", "run the same command again")
        yield read
