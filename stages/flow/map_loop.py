"""The loop of every map stage: one shard out per part in, in this process or in several."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any

from stages.errors import MissingInput, OutOfMemory, Stopped
from stages.flow.device import cores, use_threads
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.make_part import check_run, make_part, up_to_date
from stages.flow.parts import Part, Plan
from stages.flow.stream import arriving
from stages.flow.work import MapWork, Worker
from stages.flow.workers import end_workers, tied_to_parent
from stages.shards import Shard

_NO_MORE: Any = object()
_MOST_JOBS = 8  # by default: a worker holds a net and its activations, about 1 GB


def run_map(work: MapWork, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Make every part that this task is to make; print the path of each as it is finished.

    Raises what make_part raises; MissingInput at the end when parts of the run never came.
    """
    plan = Plan(arriving(inputs.paths), output, work.kind, reads=work.reads, shard_size=work.shard_size,
                index=inputs.index)
    summary = Summary()
    wanted = _wanted(plan, work, output, report, summary)
    jobs = output.jobs or (1 if work.plain.get("device") == "cuda" else max(1, cores() // work.threads))
    jobs = min(jobs, _MOST_JOBS) if not output.jobs else jobs
    first = list(islice(_there(wanted, stop), 1))
    more = list(islice(wanted, 1)) if jobs > 1 and first else []
    if more:
        _run_in_processes(work, chain(first, more, wanted), output, jobs, summary, stop, report)
    elif first:
        _run_here(work, chain(first, wanted), output, summary, stop, report)
    holes = plan.missing()
    if holes:
        raise MissingInput(f"the input lacks part {holes}", "make the missing shards; the others are done")
    return summary


def _there(parts: Iterator[Part | None], stop: Stop) -> Iterator[Part]:
    """Wait for each part that is still to come. Raises Stopped."""
    for part in parts:
        if stop.requested:
            raise Stopped("stopped", "run the same command again to go on")
        if part is not None:
            yield part


def _wanted(plan: Plan, work: MapWork, output: Output, report: Report, summary: Summary) -> Iterator[Part | None]:
    """Yield the parts that are not up to date, None while there is none; report the others at once."""
    beside_others = False
    for part in plan:
        if part is None:
            yield None
            continue
        done = up_to_date(work, part, output)
        if done:
            summary.add(done)
            report.tell(f"{part.path} is up to date")
            report.finished(part.path)
            continue
        if not beside_others:
            check_run(work, part, output)
            beside_others = True
        if output.dry_run:
            report.tell(f"would make {part.path} ({part.stop - part.start} images)")
        else:
            yield part


def _run_here(work: MapWork, parts: Iterator[Part | None], output: Output, summary: Summary, stop: Stop,
              report: Report) -> None:
    worker: Worker | None = None
    for part in _there(parts, stop):
        report.begin(f"{work.stage} {part.number + 1}/{part.parts}", part.stop - part.start)
        if worker is None:
            use_threads(work.threads)
            worker = work.start()
        _count(make_part(work, worker, part, output, stopped=lambda: stop.requested, advance=report.advance),
               part, summary, report)


def _count(done: Summary, part: Part, summary: Summary, report: Report) -> None:
    summary.add(done)
    if done.errors:
        first = next(iter(Shard(part.path).errors.items()))
        report.tell(f"{part.path}: {done.errors} of {done.items} images refused, the first: {first[1]}")
    report.finished(part.path)


def _run_in_processes(work: MapWork, parts: Iterator[Part | None], output: Output, jobs: int, summary: Summary,
                      stop: Stop, report: Report) -> None:
    context = multiprocessing.get_context("spawn")
    flag, counts = context.Event(), context.Queue()
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker,
                               initargs=(work, flag, counts, os.getpid()))
    running: dict[Future, Part] = {}
    report.begin(work.stage, None)
    try:
        feeding = True
        while feeding or running:
            while feeding and len(running) < jobs and not stop.requested:
                part = next(parts, _NO_MORE)
                if part is None:
                    break
                if part is _NO_MORE:
                    feeding = False
                else:
                    running[pool.submit(_make_in_worker, part, output)] = part
            if stop.requested:
                flag.set()
                feeding = False
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            _drain(counts, report)
            for future in finished:
                _count(future.result(), running.pop(future), summary, report)
        if stop.requested:
            raise Stopped("stopped", "run the same command again to go on")
    except BrokenProcessPool:
        end_workers()
        raise OutOfMemory("a worker process was ended (by the system, for its memory?)",
                          "what is done is kept; run the same command again, with a smaller -j") from None
    finally:
        flag.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _drain(counts: Any, report: Report) -> None:
    try:
        while True:
            report.advance(counts.get_nowait())
    except queue.Empty:
        return


_worker: Worker | None = None
_work: MapWork | None = None
_flag: Any = None
_counts: Any = None


def _begin_worker(work: MapWork, flag: Any, counts: Any, parent: int) -> None:
    """Set up a worker process."""
    global _work, _flag, _counts
    tied_to_parent(parent)
    _work, _flag, _counts = work, flag, counts


def _make_in_worker(part: Part, output: Output) -> Summary:
    global _worker
    if _worker is None:
        use_threads(_work.threads)
        _worker = _work.start()
    return make_part(_work, _worker, part, output, stopped=_flag.is_set, advance=_counts.put)
