"""What a training needs of every image and takes long to make: made once before it, in several processes, and kept.

The values go to a journal beside the net (`OUT.labels.part`), so that an interrupted run doesn't make them again. It is
removed with the end of the training; what is in it is no artefact of its own.
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
from stages.flow.workers import end_workers, tied_to_parent
from stages.shards import Item, Journal, differences
from stages.shards.disk import locked, make_folder
from stages.shards.items import unpack
from stages.shards.journal import frames

_AT_ONCE = 16  # images that a process makes before it answers


@dataclass(frozen=True)
class Preparation:
    """The work, as plain data: `maker` is `module:function`; the function takes `settings` and returns item(id).

    What item(id) refuses with BadData is kept as a refused item. `request` decides whether what is there is wanted.
    """

    maker: str
    settings: Any
    ids: tuple[str, ...]
    request: dict[str, Any]

    def start(self) -> Callable[[str], Item]:
        """Build the maker in this process."""
        module, _, function = self.maker.partition(":")
        return getattr(importlib.import_module(module), function)(self.settings)


def kept_at(output: Output) -> Path:
    """Return where the values are kept until the training is over."""
    return output.path.with_name(output.path.name + ".labels.part")


def drop_kept(output: Output) -> None:
    """Remove what was kept, because its training is over; not what another process is making."""
    path = kept_at(output)
    if output.dry_run or not path.exists():
        return
    try:
        descriptor = locked(path, path)
    except Stopped:
        return
    path.unlink(missing_ok=True)
    os.close(descriptor)


def prepared(work: Preparation, output: Output, *, jobs: int, stop: Stop, report: Report) -> list[Item]:
    """Return an item for each of the ids, in order, from the journal or made now by `jobs` processes.

    Of processes that train together the first makes them, the others wait for it. Raises Stopped (work kept), BadData
    when there is not one good item, CannotCreate, IoFailed.
    """
    path = kept_at(output)
    if os.environ.get("RANK", "0") != "0":
        return _awaited(path, work, stop)
    make_folder(path.parent)
    journal = Journal(path, work.request, discard=output.force)
    try:
        missing = [place for place in range(len(work.ids)) if place not in journal.items]
        report.begin("labels", len(work.ids))
        report.advance(len(journal.items))
        for made in _made(work, missing, jobs, stop):
            journal.append(made)
            report.advance(len(made))
        journal.sync()
        items = [journal.items[place] for place in range(len(work.ids))]
    finally:
        journal.close()
    _tell_refused(items, report)
    return items


def _tell_refused(items: list[Item], report: Report) -> None:
    refused = [item for item in items if item.error is not None]
    if refused and len(refused) == len(items):
        raise BadData("no image can be used", "see the first", where=f"{refused[0].id}: {refused[0].error}")
    if refused:
        report.tell(f"{len(refused)} of {len(items)} images are left out, the first: {refused[0].id}: "
                    f"{refused[0].error}")


def _made(work: Preparation, missing: list[int], jobs: int, stop: Stop) -> Iterator[list[tuple[int, Item]]]:
    """Yield what is made, a few images at a time, as it comes."""
    chunks = [missing[start:start + _AT_ONCE] for start in range(0, len(missing), _AT_ONCE)]
    if jobs == 1 or len(chunks) < 2:
        make = work.start() if chunks else None
        for chunk in chunks:
            for place in chunk:
                if stop.requested:
                    raise Stopped("stopped while labels were made", "run the same command again to go on")
                yield [(place, _item(make, work.ids[place]))]
        return
    yield from _made_in_processes(work, chunks, jobs, stop)


def _made_in_processes(work: Preparation, chunks: list[list[int]], jobs: int,
                       stop: Stop) -> Iterator[list[tuple[int, Item]]]:
    pool = ProcessPoolExecutor(min(jobs, len(chunks)), mp_context=multiprocessing.get_context("spawn"),
                               initializer=_begin, initargs=(work, os.getpid()))
    try:
        running: set[Future] = {pool.submit(_chunk, chunk) for chunk in chunks}
        while running:
            finished, running = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            if stop.requested and running:
                raise Stopped("stopped while labels were made", "run the same command again to go on")
    except BrokenProcessPool:
        end_workers()
        raise OutOfMemory("a worker process was ended (by the system, for its memory?)",
                          "what is done is kept; run the same command again, with fewer --threads") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_work: Preparation | None = None
_make: Callable[[str], Item] | None = None


def _begin(work: Preparation, parent: int) -> None:
    global _work, _make
    tied_to_parent(parent)
    _work, _make = work, work.start()


def _chunk(places: list[int]) -> list[tuple[int, Item]]:
    return [(place, _item(_make, _work.ids[place])) for place in places]


def _item(make: Any, item_id: str) -> Item:
    try:
        return make(item_id)
    except BadData as error:
        return Item(item_id, error=str(error))


def _awaited(path: Path, work: Preparation, stop: Stop) -> list[Item]:
    """Return the items once the first process has made them all."""
    seen = -1
    while not stop.requested:
        size = path.stat().st_size if path.exists() else 0
        if size == seen:
            time.sleep(0.2)
            continue
        seen = size
        payloads, _ = frames(path.read_bytes()) if size else ([], 0)
        if len(payloads) == len(work.ids) + 1 and not differences(json.loads(payloads[0]), work.request):
            found = dict(unpack(payload) for payload in payloads[1:])
            return [found[place] for place in range(len(work.ids))]
    raise Stopped("stopped while labels were made", "run the same command again to go on")
