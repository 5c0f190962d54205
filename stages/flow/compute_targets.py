"""Computes per-image training targets once before a training, in worker processes, and caches them next to the network.

The cache is a journal (`OUT.labels.part`), so that an interrupted run resumes. It is removed when the training has
finished, and is not an output.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.errors import BadData, OutOfMemory, Stopped
from stages.flow.execution import Output, Report, Stop
from stages.flow.worker_processes import kill_workers, tie_to_parent
from stages.shards import Item, Journal, describe_differences
from stages.shards.disk import lock_file, make_folder
from stages.shards.items import unpack_record
from stages.shards.journal import decode_frames

_CHUNK_SIZE = 16  # images that a process computes before it returns them


@dataclass(frozen=True)
class TargetWork:
    """The work as plain data: `factory` is `module:function`; the function takes `settings` and returns compute(id).

    An image for which compute(id) raises BadData becomes a failed item. A cache with another
    `request` raises CannotCreate, unless --force discards it.
    """

    factory: str
    settings: Any
    ids: tuple[str, ...]
    request: dict[str, Any]

    def build_target_function(self) -> Callable[[str], Item]:
        """Build the function that computes the target of an id, in this process."""
        module, _, function = self.factory.partition(":")
        return getattr(importlib.import_module(module), function)(self.settings)


def target_cache_path(output: Output) -> Path:
    """Return the path of the cache, which exists until the training has finished."""
    return output.path.with_name(output.path.name + ".labels.part")


def remove_target_cache(output: Output) -> None:
    """Remove the cache after its training has finished, unless another process is writing it."""
    path = target_cache_path(output)
    if output.dry_run or not path.exists():
        return
    try:
        descriptor = lock_file(path, path)
    except Stopped:
        return
    path.unlink(missing_ok=True)
    os.close(descriptor)


def compute_targets(work: TargetWork, output: Output, *, jobs: int, stop: Stop, report: Report) -> list[Item]:
    """Return an item for each of the ids, in order: cached ones, and the missing ones computed by `jobs` processes.

    Of several training processes the first computes them, and the others wait for it. Raises Stopped (finished work is
    kept), BadData if all items failed, CannotCreate, IoFailed.
    """
    path = target_cache_path(output)
    if os.environ.get("RANK", "0") != "0":
        return _wait_for_targets(path, work, stop)
    make_folder(path.parent)
    journal = Journal(path, work.request, discard=output.force)
    try:
        missing = [position for position in range(len(work.ids)) if position not in journal.items]
        report.start_progress("computing labels", len(work.ids))
        report.advance(len(journal.items), resumed=True)
        for chunk_items in _compute_missing(work, missing, jobs, stop):
            journal.append(chunk_items)
            report.advance(len(chunk_items))
        journal.sync()
        items = [journal.items[position] for position in range(len(work.ids))]
    finally:
        journal.close()
    _report_failures(items, report)
    return items


def _report_failures(items: list[Item], report: Report) -> None:
    failed = [item for item in items if item.error is not None]
    if failed and len(failed) == len(items):
        raise BadData(f"all {len(items)} images failed, the first with: {failed[0].error}", where=failed[0].id)
    if failed:
        report.info(f"{len(failed)} of {len(items)} images failed and are skipped, the first: {failed[0].id}: "
                    f"{failed[0].error}")


def _compute_missing(work: TargetWork, missing: list[int], jobs: int, stop: Stop) -> Iterator[list[tuple[int, Item]]]:
    """Yield (position, item) pairs of a few images at a time, as they are computed."""
    chunks = [missing[start:start + _CHUNK_SIZE] for start in range(0, len(missing), _CHUNK_SIZE)]
    if jobs == 1 or len(chunks) < 2:
        compute = work.build_target_function() if chunks else None
        for chunk in chunks:
            for position in chunk:
                if stop.requested:
                    raise _build_stopped_error()
                yield [(position, _compute_item(compute, work.ids[position]))]
        return
    yield from _compute_in_processes(work, chunks, jobs, stop)


def _compute_in_processes(work: TargetWork, chunks: list[list[int]], jobs: int,
                          stop: Stop) -> Iterator[list[tuple[int, Item]]]:
    pool = ProcessPoolExecutor(min(jobs, len(chunks)), mp_context=multiprocessing.get_context("spawn"),
                               initializer=_init_worker_process, initargs=(work, os.getpid()))
    try:
        running: set[Future] = {pool.submit(_compute_chunk, chunk) for chunk in chunks}
        while running:
            finished, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            if stop.requested and running:
                raise _build_stopped_error()
    except BrokenProcessPool:
        kill_workers()
        raise OutOfMemory("a worker process was killed, probably by the system because memory ran out",
                          "Run the same command again with fewer --threads; finished work is kept") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _build_stopped_error() -> Stopped:
    return Stopped("stopped by a signal while training targets were computed", "Run the same command again to resume")


# Set in each worker process by _init_worker_process.
_work: TargetWork | None = None
_compute: Callable[[str], Item] | None = None


def _init_worker_process(work: TargetWork, parent: int) -> None:
    global _work, _compute
    tie_to_parent(parent)
    _work, _compute = work, work.build_target_function()


def _compute_chunk(positions: list[int]) -> list[tuple[int, Item]]:
    return [(position, _compute_item(_compute, _work.ids[position])) for position in positions]


def _compute_item(compute: Any, item_id: str) -> Item:
    try:
        return compute(item_id)
    except BadData as error:
        return Item(item_id, error=str(error))


def _wait_for_targets(path: Path, work: TargetWork, stop: Stop) -> list[Item]:
    """Return the items once the first process has computed and cached them all."""
    last_size = -1
    while not stop.requested:
        size = path.stat().st_size if path.exists() else 0
        if size == last_size:
            time.sleep(0.2)
            continue
        last_size = size
        payloads, _ = decode_frames(path.read_bytes()) if size else ([], 0)
        if len(payloads) == len(work.ids) + 1 and not describe_differences(json.loads(payloads[0]), work.request):
            items = dict(unpack_record(payload) for payload in payloads[1:])
            return [items[position] for position in range(len(work.ids))]
    raise _build_stopped_error()
