"""Makes one shard: takes over what the journal holds, computes the batches that are missing, seals it."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from stages.errors import BadData, CannotCreate, Stopped, UsageError, WsssError
from stages.flow.execution import Output, Summary
from stages.flow.finished import finished_shard
from stages.flow.finite import check_finite
from stages.flow.parts import Part, beside_alone
from stages.flow.work import BESIDE, MapWork, PartWork, Worker
from stages.shards import (
    KINDS,
    Contents,
    Item,
    Journal,
    Shard,
    made_otherwise,
    part_path,
    write_shard,
)
from stages.shards.disk import append_line, make_folder

_SYNC_SECONDS = 5.0


def up_to_date(work: MapWork, part: Part, output: Output) -> Summary | None:
    """Return the summary of a shard that is there already as wanted, touched; None when it is to be made.

    A second run's shard must be there as well. Raises CannotCreate naming the keys that differ when one of them
    is there but made otherwise.
    """
    second = work.second(part)
    also = second is None or up_to_date(*second, output) is not None
    request = work.request(part, Shard(part.source))
    there = finished_shard(part.path, request, output)
    # A journal beside a shard whose second run lacks its own is unfinished work.
    if there is None or not also or (output.retry and there.errors):
        return None
    if not output.dry_run:
        os.utime(part.path)
        _drop_leftover(part, request, there)
    return Summary(up_to_date=1, items=len(there.ids), errors=len(there.errors))


def check_run(work: MapWork, part: Part, output: Output) -> None:
    """Raise CannotCreate when a part is to be put beside shards of another run, or with other settings.

    Of those of its own run one is looked at. With `--force` many tasks replace a run shard by shard, but not the run
    that it is made from: UsageError.
    """
    second = work.second(part)
    if second is not None:
        check_run(*second, output)
    beside = beside_alone(part.path)
    if part.path.resolve() == part.source.resolve():
        raise UsageError(f"{part.path} is what it is to be made from", "give another -o")
    if output.force:
        return
    entry = work.entry(Shard(part.source))
    for path in beside:
        try:
            changed = made_otherwise(Shard(path).provenance, [*Shard(part.source).provenance, entry])
        except WsssError:
            continue  # damaged: what reads it will tell
        if changed:
            raise CannotCreate(f"would be put beside {path.name}, which has other settings ({changed})",
                               "give those settings, another -o, or --force to replace it", where=str(part.path))
        return


def _drop_leftover(part: Part, request: dict[str, Any], there: Shard) -> None:
    """Remove the journal that a crash left between the rename of its shard and its own removal.

    One with a part of the images stays where the shard has refused ones: it may be of an unfinished --retry.
    """
    path = part_path(part.path)
    if path.exists():
        try:
            journal = Journal(path, request)
        except WsssError:
            return
        journal.close(remove=not there.errors or len(journal.items) == len(there.ids))


def make_part(work: MapWork, worker: Worker, part: Part, output: Output, *,
              stopped: Callable[[], bool], advance: Callable[[int], None]) -> Summary:
    """Make the shard of one part and return its summary.

    Raises Stopped (work kept) when asked to stop or when another process holds the part, BadData at the
    first refused item under --strict, IoFailed when the disk refuses.
    """
    started = time.time()
    make_folder(part.path.parent)
    source, index = Shard(part.source), Shard(part.index_path, "index")
    journal = Journal(part_path(part.path), work.request(part, source), discard=output.force)
    try:
        opened = worker.open(part, source, index)
        ids = part.ids(source)
        done = {**_kept(work, part, output), **_taken_over(work, journal, output)}
        advance(len(done))
        batches = _batches(ids, source, opened, work.batch_size)
        missing = [batch for batch in batches if any(position not in done for position in batch)]
        done.update(_compute(missing, ids, source, opened, journal, output, stopped, advance, readers=work.readers))
        items = [done[position] for position in range(len(ids))]
        digest = _sealed(work, part, opened, source, index, items)
        journal.close(remove=True)
    except BaseException:
        journal.close(remove=not journal.items)
        raise
    summary = Summary(made=1, items=len(items), errors=sum(item.error is not None for item in items))
    write_log(output, {"path": part.path.name, "digest": digest, "items": summary.items,
                       "errors": summary.errors, "seconds": round(time.time() - started, 3)})
    return summary


def _sealed(work: MapWork, part: Part, opened: PartWork, source: Shard, index: Shard, items: list[Item]) -> str:
    """Write the shard, the second run's before it, and return its digest."""
    second = work.second(part)
    if second is not None:
        make_folder(second[1].path.parent)
        others = [_of_run(item, beside=True) for item in items]
        write_shard(second[1].path, _contents(*second, opened, source, index, others))
    items = [_of_run(item, beside=False) for item in items]
    return write_shard(part.path, _contents(work, part, opened, source, index, items))


def _of_run(item: Item, *, beside: bool) -> Item:
    """Return an item as one of the two runs has it."""
    own = {name: array for name, array in item.datasets.items() if not name.startswith(BESIDE)}
    if beside:
        own |= {name.removeprefix(BESIDE): array for name, array in item.datasets.items() if name.startswith(BESIDE)}
    return replace(item, datasets=own)


def _kept(work: MapWork, part: Part, output: Output) -> dict[int, Item]:
    """Under --retry, the good items of the finished shard, with what the second run holds of them."""
    second = work.second(part)
    if output.force or not (output.retry and part.path.exists() and (second is None or second[1].path.exists())):
        return {}
    kept = {place: item for place, item in enumerate(_items_of(Shard(part.path))) if item.error is None}
    if second is not None:
        for place, other in enumerate(Shard(second[1].path).items()):
            if place in kept:
                more = {BESIDE + name: array for name, array in other.datasets.items()}
                kept[place] = replace(kept[place], datasets={**kept[place].datasets, **more})
    return kept


def _taken_over(work: MapWork, journal: Journal, output: Output) -> dict[int, Item]:
    """Return the items of the journal that will do.

    Refused ones are tried anew where the user asks for just that; with a second run, those without its share.
    """
    anew = output.retry or output.strict
    return {place: item for place, item in journal.items.items()
            if (not anew if item.error is not None else work.beside is None or _has_share(item))}


def _has_share(item: Item) -> bool:
    return any(name.startswith(BESIDE) for name in item.datasets)


def _batches(ids: Sequence[str], source: Shard, opened: PartWork, size: int) -> list[list[int]]:
    """Cut the positions into batches of equal keys: a function of the shard and `size` alone."""
    groups: dict[Any, list[int]] = {}
    for position, item_id in enumerate(ids):
        groups.setdefault(_key(item_id, source, opened, size), []).append(position)
    cut = [group[start:start + size] for group in groups.values() for start in range(0, len(group), size)]
    return sorted(cut)


def _key(item_id: str, source: Shard, opened: PartWork, size: int) -> Any:
    try:
        return "refused" if item_id in source.errors else ("good", opened.key(item_id) if size > 1 else None)
    except BadData:
        return "refused"  # load tells why


def _compute(batches: list[list[int]], ids: Sequence[str], source: Shard, opened: PartWork, journal: Journal,
             output: Output, stopped: Callable[[], bool], advance: Callable[[int], None], *,
             readers: int) -> dict[int, Item]:
    made: dict[int, Item] = {}
    synced = time.monotonic()
    size = max(map(len, batches), default=1)
    depth = -(-readers // size)  # batches ahead, so that each reader has an image and few wait in memory
    reader = ThreadPoolExecutor(readers)
    try:
        ahead = deque(_loading(batch, ids, source, opened, reader) for batch in batches[:depth])
        for number, batch in enumerate(batches):
            if stopped():
                journal.sync()
                raise Stopped(f"stopped after {len(journal.items)} of {len(ids)} images", "run the same command "
                              "again to go on", where=str(journal.path))
            loaded = [(item_id, future.result()) for item_id, future in ahead.popleft()]
            ahead.extend(_loading(following, ids, source, opened, reader)
                         for following in batches[number + depth:number + depth + 1])
            items = dict(zip(batch, _batch_items(loaded, opened), strict=True))
            _refuse_if_strict(items.values(), output)
            journal.append(items.items())
            made.update(items)
            advance(len(batch))
            if time.monotonic() - synced > _SYNC_SECONDS:
                journal.sync()
                synced = time.monotonic()
    finally:
        reader.shutdown(cancel_futures=True)
    return made


def _loading(batch: list[int], ids: Sequence[str], source: Shard, opened: PartWork,
             reader: ThreadPoolExecutor) -> list[tuple[str, Future]]:
    return [(ids[position], reader.submit(_loaded_or_refused, ids[position], source, opened)) for position in batch]


def _loaded_or_refused(item_id: str, source: Shard, opened: PartWork) -> Any:
    if item_id in source.errors:
        return Item(item_id, error=source.errors[item_id])
    try:
        return opened.load(item_id)
    except BadData as error:
        return Item(item_id, error=str(error))


def _batch_items(loaded: list[tuple[str, Any]], opened: PartWork) -> list[Item]:
    good = [(item_id, value) for item_id, value in loaded if not _refused(value)]
    try:
        computed = iter(opened.compute(good) if good else [])
    except BadData:
        computed = iter([_computed_alone(one, opened) for one in good])
    return [value if _refused(value) else _reject_not_finite(next(computed)) for _, value in loaded]


def _reject_not_finite(item: Item) -> Item:
    """Return the item; one with its failure in its place where a dataset holds values that are not finite."""
    try:
        for name, array in item.datasets.items():
            check_finite(array, name.removeprefix(BESIDE), item.id)
    except BadData as error:
        return Item(item.id, error=str(error))
    return item


def _computed_alone(one: tuple[str, Any], opened: PartWork) -> Item:
    """Find which item of a batch is the bad one: a function of the data alone, so a rerun does the same."""
    try:
        return opened.compute([one])[0]
    except BadData as error:
        return Item(one[0], error=str(error))


def _refused(value: Any) -> bool:
    return isinstance(value, Item) and value.error is not None


def _refuse_if_strict(items: Any, output: Output) -> None:
    for item in items:
        if output.strict and item.error is not None:
            raise BadData(item.error, "mend it, or leave out --strict", where=item.id)


def _rows(kind: str, items: list[Item]) -> dict[str, np.ndarray]:
    """Return the root datasets of a kind that has no items: one row an image, a refused one's is 0."""
    if KINDS[kind].item:
        return {}
    stacked = {}
    for array in KINDS[kind].root:
        good = next((item.datasets[array.name] for item in items if item.error is None), np.zeros(0))
        empty = np.zeros(good.shape, dtype=array.dtypes[0])
        rows = [item.datasets[array.name] if item.error is None else empty for item in items]
        stacked[array.name] = (np.stack(rows) if rows else empty[None][:0]).astype(array.dtypes[0])
    return stacked


def _items_of(shard: Shard) -> list[Item]:
    """Return a finished shard's items, of a kind without items one for each row."""
    kind = KINDS[shard.kind]
    if kind.item:
        return list(shard.items())
    arrays = {array.name: shard.root(array.name) for array in kind.root}
    return [Item(item_id, {name: rows[place] for name, rows in arrays.items()}, error=shard.errors.get(item_id))
            for place, item_id in enumerate(shard.ids)]


def _contents(work: MapWork, part: Part, opened: PartWork, source: Shard, index: Shard,
              items: list[Item]) -> Contents:
    folder = os.path.abspath(part.path.parent)
    return Contents(
        kind=work.kind, classes=opened.classes, items=items, part=part.number, parts=part.parts,
        provenance=[*source.provenance, work.entry(source)], index_digest=index.digest,
        index_path=os.path.relpath(os.path.abspath(part.index_path), folder), root_attrs=opened.root_attrs,
        root_datasets=_rows(work.kind, items))


def write_log(output: Output, line: dict[str, Any]) -> None:
    """Append one line of JSON with time and host to the run's log: what has no place in a shard."""
    import getpass
    import platform
    import sys
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    stamp = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node(), "user": user,
             "command": sys.argv}
    # Of a name that is no UTF-8 the bytes, which Python reads as lone surrogates, are escaped as JSON has them.
    append_line(output.log_path, json.dumps({**line, **stamp}, ensure_ascii=False).encode(errors="backslashreplace"))
