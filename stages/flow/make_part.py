"""Makes one shard: recovers finished items from the journal, computes the missing batches, and writes the shard."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from stages.errors import BadData, CannotCreate, Stopped, UsageError, WsssError
from stages.flow.batches import build_batches, compute_batch, submit_loads
from stages.flow.execution import Output, Summary
from stages.flow.existing_output import find_finished_shard
from stages.flow.map_work import COMPANION_PREFIX, MapWork, PartWork, Worker
from stages.flow.parts import Part, list_sibling_shards
from stages.flow.phase_times import COMPUTE, JOURNAL, OPEN, WAIT_IMAGES, WRITE, PhaseTimes, write_profile_line
from stages.flow.reuse import load_reusable_items
from stages.flow.stored_items import read_items
from stages.shards import (
    KINDS,
    Item,
    ItemStore,
    Journal,
    OrderedItems,
    Shard,
    ShardContents,
    describe_provenance_differences,
    mark_training_images,
    read_in_training,
    select_image_records,
    unfinished_path,
    write_shard,
)
from stages.shards.disk import append_line, make_folder

_SYNC_SECONDS = 5.0


def reuse_existing_part(work: MapWork, part: Part, output: Output) -> Summary | None:
    """Touch an up-to-date shard and return its summary; return None if the shard has to be made.

    The shard of a companion run must be up to date as well. Raises CannotCreate if one of them exists with different
    settings (listing them).
    """
    companion_part = work.companion_part(part)
    is_companion_done = companion_part is None or reuse_existing_part(*companion_part, output) is not None
    source = Shard(part.source)
    request = work.build_request(part, source)
    shard = find_finished_shard(part.path, request, output)
    # The journal of a shard without its companion shard is unfinished work, so it is not removed.
    if shard is None or not is_companion_done or (output.retry and shard.errors):
        return None
    if not output.dry_run:
        os.utime(part.path)
        _remove_leftover_journal(part, request, shard)
    return Summary(num_up_to_date=1, num_images=len(shard.ids), num_failed=len(shard.errors),
                   **_count_inherited_failures(shard.errors, source))


def _count_inherited_failures(failed_ids: Iterable[str], source: Shard) -> dict[str, Any]:
    """Return, for a summary, how many of the failed images had failed in the source of their part, and its path."""
    num_inherited = sum(item_id in source.errors for item_id in failed_ids)
    return {"num_inherited": num_inherited, "failed_input": str(source.path) if num_inherited else ""}


def check_output_run(work: MapWork, part: Part, output: Output) -> None:
    """Raise CannotCreate if the output folder holds shards of another run, or of this run with different settings.

    Only one shard of the same run is compared. With `--force` tasks replace a run shard by shard, but never the run
    that they read: UsageError.
    """
    companion_part = work.companion_part(part)
    if companion_part is not None:
        check_output_run(*companion_part, output)
    siblings = list_sibling_shards(part.path)
    if part.path.resolve() == part.source.resolve():
        raise UsageError(f"{part.path} is both the input and the output", "Choose another --output")
    if output.force:
        return
    entry = work.build_provenance_entry(Shard(part.source))
    for sibling in siblings:
        try:
            changed = describe_provenance_differences(Shard(sibling).provenance,
                                                      [*Shard(part.source).provenance, entry])
        except WsssError:
            continue  # a damaged shard is reported by the command that reads it
        if changed:
            raise CannotCreate(f"would be in one folder with {sibling.name}, which has different settings ({changed})",
                               "Use the same settings, --force to replace the run, or choose another --output",
                               where=str(part.path))
        return


def _remove_leftover_journal(part: Part, request: dict[str, Any], shard: Shard) -> None:
    """Remove the journal that a crash left between the rename of its shard and the removal of the journal.

    A journal with only some of the images stays if the shard has failed images: it may belong to an unfinished --retry.
    """
    path = unfinished_path(part.path)
    if path.exists():
        try:
            journal = Journal(path, request)
        except WsssError:
            return
        journal.close(remove=not shard.errors or len(journal.items) == len(shard.ids))


def make_part(work: MapWork, worker: Worker, part: Part, output: Output, *,
              should_stop: Callable[[], bool], advance: Callable[..., None]) -> Summary:
    """Make the shard of one part and return its summary.

    Raises Stopped (finished work is kept) after a request to stop or when another process holds the part, BadData at
    the first failed item under --strict, IoFailed when the disk cannot be read or written.
    """
    started, times = time.time(), PhaseTimes()
    with times.measure(OPEN):
        make_folder(part.path.parent)
        source, index = Shard(part.source), Shard(part.index_path, "index")
        journal = Journal(unfinished_path(part.path), work.build_request(part, source), discard=output.force)
    try:
        with times.measure(OPEN):
            part_work = worker.open(part, source, index)
        ids = part.ids(source)
        items = _load_items_to_retain(work, part, output)
        items.copy_from(journal.items, _select_journal_positions(work, journal, output))
        reused = _take_over_items(load_reusable_items(work, part, part_work, source, index, output), items)
        advance(len(items), resumed=True)
        batches = build_batches(ids, source, part_work, work.batch_size)
        batches = [[position for position in batch if position not in reused] for batch in batches]
        incomplete = [batch for batch in batches if any(position not in items for position in batch)]
        _compute_batches(incomplete, ids, source, part_work, journal, items, output, should_stop, advance,
                         times, num_readers=work.num_readers)
        with times.measure(WRITE):
            digest = _write_shards(work, part, part_work, source, index, items)
            journal.close(remove=True)
    except BaseException:
        journal.close(remove=not journal.items)
        raise
    failed_ids = [item.id for item in items.values() if item.error is not None]
    num_reduced = part_work.images.num_reduced if part_work.images is not None else 0
    reuse = {"reused": len(reused), "reused_from": output.reuse} if output.reuse is not None else {}
    write_log(output, {"path": part.path.name, "digest": digest, "items": len(items), "errors": len(failed_ids),
                       **reuse, "seconds": round(time.time() - started, 3)})
    write_profile_line(output.profile, {"stage": work.stage, "part": part.path.name, "images": len(items),
                                        **times.describe()})
    return Summary(num_written=1, num_images=len(items), num_failed=len(failed_ids), num_reduced=num_reduced,
                   num_reused=len(reused), num_not_reused=len(items) - len(reused),
                   **_count_inherited_failures(failed_ids, source))


def _take_over_items(reusable: ItemStore, items: ItemStore) -> set[int]:
    """Add the reusable items at positions that `items` does not have, and return these positions."""
    positions = set(reusable) - set(items)
    items.copy_from(reusable, positions)
    return positions


def _write_shards(work: MapWork, part: Part, part_work: PartWork, source: Shard, index: Shard,
                  items: ItemStore) -> str:
    """Write the shard of a part, after that of its companion run, and return its digest."""
    companion_part = work.companion_part(part)
    if companion_part is not None:
        make_folder(companion_part[1].path.parent)
        companion_items = OrderedItems(items, partial(_select_datasets, companion=True))
        write_shard(companion_part[1].path,
                    _build_contents(*companion_part, part_work, source, index, companion_items))
    main_items = OrderedItems(items, partial(_select_datasets, companion=False))
    return write_shard(part.path, _build_contents(work, part, part_work, source, index, main_items))


def _select_datasets(item: Item, *, companion: bool) -> Item:
    """Return an item with the datasets of the main run, or of the companion run."""
    datasets = {name: array for name, array in item.datasets.items() if not name.startswith(COMPANION_PREFIX)}
    if companion:
        datasets |= {name.removeprefix(COMPANION_PREFIX): array for name, array in item.datasets.items()
                     if name.startswith(COMPANION_PREFIX)}
    return replace(item, datasets=datasets)


def _load_items_to_retain(work: MapWork, part: Part, output: Output) -> ItemStore:
    """Return, under --retry, the items of the finished shard that did not fail, with their companion datasets."""
    companion_part = work.companion_part(part)
    has_shards = part.path.exists() and (companion_part is None or companion_part[1].path.exists())
    items = ItemStore()
    if output.force or not (output.retry and has_shards):
        return items
    for position, item in enumerate(read_items(Shard(part.path))):
        if item.error is None:
            items.add(position, item)
    if companion_part is not None:
        for position, companion_item in enumerate(Shard(companion_part[1].path).items()):
            if position in items:
                datasets = {COMPANION_PREFIX + name: array for name, array in companion_item.datasets.items()}
                item = items[position]
                items.add(position, replace(item, datasets={**item.datasets, **datasets}))
    return items


def _select_journal_positions(work: MapWork, journal: Journal, output: Output) -> list[int]:
    """Return the positions of the items of the journal that need not be computed again.

    Failed items are computed again under --retry and --strict, and items without companion datasets if there is a
    companion run.
    """
    should_retry = output.retry or output.strict
    return [position for position, item in journal.items.items()
            if (not should_retry if item.error is not None else work.companion is None or _has_companion_data(item))]


def _has_companion_data(item: Item) -> bool:
    return any(name.startswith(COMPANION_PREFIX) for name in item.datasets)


def _compute_batches(batches: list[list[int]], ids: Sequence[str], source: Shard, part_work: PartWork,
                     journal: Journal, items: ItemStore, output: Output, should_stop: Callable[[], bool],
                     advance: Callable[..., None], times: PhaseTimes, *, num_readers: int) -> None:
    """Compute `batches` into `items`, append each batch to the journal, and load the next ones ahead."""
    last_sync = time.monotonic()
    batch_size = max(map(len, batches), default=1)
    num_ahead = -(-num_readers // batch_size)  # gives each reader an image, and keeps few images in memory
    reader = ThreadPoolExecutor(num_readers)
    try:
        ahead = deque(submit_loads(batch, ids, source, part_work, reader, times) for batch in batches[:num_ahead])
        for index, batch in enumerate(batches):
            if should_stop():
                journal.sync()
                raise Stopped(f"stopped after {len(journal.items)} of {len(ids)} images",
                              "Run the same command again to resume", where=str(journal.path))
            with times.measure(WAIT_IMAGES):
                loaded = [(item_id, future.result()) for item_id, future in ahead.popleft()]
            ahead.extend(submit_loads(next_batch, ids, source, part_work, reader, times)
                         for next_batch in batches[index + num_ahead:index + num_ahead + 1])
            with times.measure(COMPUTE):
                batch_items = dict(zip(batch, compute_batch(loaded, part_work), strict=True))
            if output.strict:
                _raise_first_failure(batch_items.values())
            with times.measure(JOURNAL):
                journal.append(batch_items.items())
                items.copy_from(journal.items, batch)
                if time.monotonic() - last_sync > _SYNC_SECONDS:
                    journal.sync()
                    last_sync = time.monotonic()
            advance(len(batch))
    finally:
        reader.shutdown(cancel_futures=True)


def _raise_first_failure(items: Iterable[Item]) -> None:
    for item in items:
        if item.error is not None:
            raise BadData(item.error, "Repair or replace the image, or omit --strict", where=item.id)


def _stack_rows(kind: str, items: Sequence[Item]) -> dict[str, np.ndarray]:
    """Return the root datasets of a kind without items: one row per image, zeros for a failed image."""
    if KINDS[kind].item:
        return {}
    stacked = {}
    for array in KINDS[kind].root:
        example = next((item.datasets[array.name] for item in items if item.error is None), np.zeros(0))
        zeros = np.zeros(example.shape, dtype=array.dtypes[0])
        rows = [item.datasets[array.name] if item.error is None else zeros for item in items]
        stacked[array.name] = (np.stack(rows) if rows else zeros[None][:0]).astype(array.dtypes[0])
    return stacked


def _build_contents(work: MapWork, part: Part, part_work: PartWork, source: Shard, index: Shard,
                    items: Sequence[Item]) -> ShardContents:
    folder = os.path.abspath(part.path.parent)
    records = select_image_records(source, index, slice(part.start, part.stop))
    return ShardContents(
        kind=work.kind, classes=part_work.classes, items=items, part=part.number, parts=part.parts,
        provenance=[*source.provenance, work.build_provenance_entry(source)], index_digest=index.digest,
        index_path=os.path.relpath(os.path.abspath(part.index_path), folder), root_attrs=part_work.root_attrs,
        root_datasets=_stack_rows(work.kind, items), image_records=records,
        in_training=_mark_training_images(work, part, source, records))


def _mark_training_images(work: MapWork, part: Part, source: Shard, records: np.ndarray) -> np.ndarray | None:
    """Return which images the network of this stage was trained on, else those of the network behind `source`."""
    if work.training_images is not None:
        return mark_training_images(records, work.training_images)
    marks = read_in_training(source)
    return None if marks is None else marks[part.start:part.stop]


def write_log(output: Output, line: dict[str, Any]) -> None:
    """Append one line of JSON with time, host, user and command, which are not stored in shards, to the run's log."""
    import getpass
    import platform
    import sys
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    execution = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "host": platform.node(), "user": user,
                 "command": sys.argv}
    # The bytes of a name that is not UTF-8, which Python reads as lone surrogates, are escaped as JSON does.
    text = json.dumps({**line, **execution}, ensure_ascii=False)
    append_line(output.log_path, text.encode(errors="backslashreplace"))
