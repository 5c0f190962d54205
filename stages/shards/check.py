"""Checks a shard for damage: every dataset, every attribute, and the digest over all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from stages.errors import BadData, MissingInput, Stopped, WsssError
from stages.shards.digest import compute_digest
from stages.shards.image_records import check_image_records
from stages.shards.items import group_name
from stages.shards.read_errors import translate_read_errors
from stages.shards.reader import Shard
from stages.shards.schema import COMMON_ROOT, KINDS

_REMAKE = "Make the shard again"


def check_shard(path: Path, should_stop: Callable[[], bool] = lambda: False) -> Iterator[WsssError]:
    """Yield every fault of one shard; an intact shard yields none.

    Raises Stopped as soon as `should_stop` returns True, and IoFailed when the system fails to read the file, which
    is no fault of the shard.
    """
    try:
        shard = Shard(path)
        yield from _find_faults(shard, should_stop)
    except (BadData, MissingInput) as error:
        yield error


def _find_faults(shard: Shard, should_stop: Callable[[], bool]) -> Iterator[WsssError]:
    kind = KINDS[shard.kind]
    num_errors = yield from _yield_read_errors(partial(shard.read_root, array.name)
                                               for array in (*COMMON_ROOT, *kind.root) if array.required)
    if num_errors:
        try:
            _ = shard.ids, shard.errors
        except (BadData, MissingInput):
            return  # already reported above; without ids and errors the items cannot be checked
    if not shard.provenance:
        yield BadData("its provenance is empty", _REMAKE, where=str(shard.path))
    for item_id in sorted(set(shard.errors) - set(shard.ids)):
        yield BadData(f"the failed item {item_id} is not among its ids", _REMAKE, where=str(shard.path))
    for item_id, count in Counter(shard.ids).items():
        if count > 1:
            yield BadData(f"the id {item_id} appears {count} times", _REMAKE, where=str(shard.path))
    # What is read here is not read again for the digest, which would take as long as this.
    values: dict[bytes, np.ndarray] = {}
    if kind.item:
        reads = (partial(shard.read_item_values, item_id, values) for item_id in shard.ids
                 if item_id not in shard.errors)
        num_errors += yield from _yield_read_errors(_check_stop_before_each(should_stop, reads))
        group_names = {group_name(item_id) for item_id in shard.ids}
        with translate_read_errors(shard.path):
            for name in sorted(set(shard.file["items"]) - group_names):
                yield BadData(f"the group items/{name} has no id", _REMAKE, where=str(shard.path))
    num_errors += yield from _yield_read_errors([partial(check_image_records, shard)])
    if not num_errors:
        with translate_read_errors(shard.path):
            if compute_digest(shard.file, values) != shard.digest:
                yield BadData("its contents don't match its digest", _REMAKE, where=str(shard.path))


def _yield_read_errors(reads: Iterable[Callable[[], object]]) -> Generator[WsssError, None, int]:
    """Call each of `reads`, yield the errors that they raise, and return how many there were."""
    num_errors = 0
    for read in reads:
        try:
            read()
        except (BadData, MissingInput) as error:
            num_errors += 1
            yield error
    return num_errors


def _check_stop_before_each(should_stop: Callable[[], bool],
                            reads: Iterable[Callable[[], object]]) -> Iterator[Callable[[], object]]:
    for read in reads:
        if should_stop():
            raise Stopped("stopped by a signal", "Run the same command again")
        yield read
