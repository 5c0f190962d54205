"""The loop of every map stage: one output shard per part, in this process or in several worker processes."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any

from stages.errors import MissingInput, OutOfMemory, Stopped
from stages.flow.device import count_cores
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.make_part import check_output_run, make_part, reuse_existing_part
from stages.flow.map_work import MapWork, Worker
from stages.flow.parts import Part, Plan
from stages.flow.path_stream import poll_paths
from stages.flow.phase_times import PREPARE, WAIT_INPUT, PhaseTimes, write_profile_line
from stages.flow.reuse import check_reuse, count_reusable_items, record_reuse
from stages.flow.worker_processes import kill_workers, tie_to_parent
from stages.shards import Shard

_END_OF_PARTS: Any = object()
_MAX_DEFAULT_JOBS = 8  # a worker holds a network and its activations, about 1 GB


def run_map_stage(work: MapWork, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Make every part of this task, skip those that are up to date, and print the path of each when it is finished.

    Raises what make_part raises; MissingInput at the end if parts of the input never arrived.
    """
    work = record_reuse(work, output)
    plan = Plan(poll_paths(inputs.paths), output, work.kind, input_kinds=work.input_kinds,
                shard_size=work.shard_size, index=inputs.index)
    summary, times = Summary(), PhaseTimes()
    unfinished = _measure_waiting(_skip_finished_parts(plan, work, output, report, summary), times)
    jobs = output.jobs or (1 if work.config_dict.get("device") == "cuda" else max(1, count_cores() // work.threads))
    jobs = min(jobs, _MAX_DEFAULT_JOBS) if not output.jobs else jobs
    first = list(islice(_wait_for_parts(unfinished, plan, stop, report), 1))
    second = list(islice(unfinished, 1)) if jobs > 1 and first else []
    if first:
        report.start_progress("", None)
        report.set_total(*plan.count_images())
        report.advance(summary.num_images, resumed=True)
    if second:
        _run_in_processes(work, chain(first, second, unfinished), plan, output, jobs, summary, stop, report)
    elif first:
        parts = chain(first, _wait_for_parts(unfinished, plan, stop, report))
        _run_in_this_process(work, parts, output, summary, stop, report, times)
    report.start_phase("finishing")
    write_profile_line(None if output.dry_run else output.profile, {
        "stage": work.stage, "shards": summary.num_written, "images": summary.num_images, **times.describe()})
    if summary.num_reduced:
        subject = "1 image is" if summary.num_reduced == 1 else f"{summary.num_reduced} images are"
        report.info(f"{subject} larger than --max-side and computed at {work.config.max_side} pixels on the longer "
                    "side.")
    if output.reuse is not None and summary.num_written:
        report.info(f"{summary.num_reused} taken over from {output.reuse}, {summary.num_not_reused} computed.")
    missing = plan.describe_missing()
    if missing:
        raise MissingInput(f"the input lacks part {missing}",
                           "Make the missing shards and run the same command again; the other parts are finished")
    return summary


def _measure_waiting(parts: Iterator[Part | None], times: PhaseTimes) -> Iterator[Part | None]:
    """Yield the parts, and measure how long each has been waited for."""
    while True:
        with times.measure(WAIT_INPUT):
            part = next(parts, _END_OF_PARTS)
        if part is _END_OF_PARTS:
            return
        yield part


def _wait_for_parts(parts: Iterator[Part | None], plan: Plan, stop: Stop, report: Report) -> Iterator[Part]:
    """Yield the parts, waiting for those that have not arrived. Raises Stopped."""
    for part in parts:
        if stop.requested:
            raise _build_stopped_error()
        if part is None:
            report.start_phase(plan.describe_waiting())
        else:
            yield part


def _skip_finished_parts(plan: Plan, work: MapWork, output: Output, report: Report,
                         summary: Summary) -> Iterator[Part | None]:
    """Yield the parts that are not up to date, None while none has arrived; report the finished ones at once.

    In a dry run it yields none, and reports those that would be made.
    """
    is_output_checked = False
    num_reusable = num_planned = 0
    for part in plan:
        if part is None:
            yield None
            continue
        report.set_total(*plan.count_images())
        part_summary = reuse_existing_part(work, part, output)
        if part_summary:
            summary.add(part_summary)
            report.advance(part_summary.num_images, resumed=True)
            report.info(f"{part.path} is up to date")
            report.print_path(part.path)
            continue
        if not is_output_checked:
            check_output_run(work, part, output)
            check_reuse(work, part, output)
            is_output_checked = True
        if output.dry_run:
            report.info(f"Would make {part.path} ({part.stop - part.start} images)")
            num_reusable += count_reusable_items(work, part, output)
            num_planned += part.stop - part.start
        else:
            yield part
    if output.reuse is not None and num_planned:
        report.info(f"Would take over {num_reusable} from {output.reuse} and compute {num_planned - num_reusable}.")
    report.set_total(*plan.count_images())


def _run_in_this_process(work: MapWork, parts: Iterator[Part], output: Output, summary: Summary, stop: Stop,
                         report: Report, times: PhaseTimes) -> None:
    worker: Worker | None = None
    for part in parts:
        if stop.requested:
            raise _build_stopped_error()
        if worker is None:
            report.start_phase("loading weights" if work.digests else "preparing")
            with times.measure(PREPARE):
                worker = work.build_worker()
        report.start_phase("")
        part_summary = make_part(work, worker, part, output, should_stop=lambda: stop.requested,
                                 advance=_advance_until_writing(part, report))
        _report_finished_part(part_summary, part, summary, report)


def _advance_until_writing(part: Part, report: Report) -> Callable[..., None]:
    """Return a function that advances the progress, and that starts the next phase after the last image of a part."""
    num_left = part.stop - part.start

    def advance(count: int, *, resumed: bool = False) -> None:
        nonlocal num_left
        report.advance(count, resumed=resumed)
        num_left -= count
        if num_left == 0:
            report.start_phase(f"writing {part.path.name}")
    return advance


def _report_finished_part(part_summary: Summary, part: Part, summary: Summary, report: Report) -> None:
    summary.add(part_summary)
    if part_summary.num_failed:
        first_error = next(iter(Shard(part.path).errors.values()))
        report.info(f"{part.path}: {part_summary.num_failed} of {part_summary.num_images} images failed, the first: "
                    f"{first_error}")
    report.print_path(part.path)


def _run_in_processes(work: MapWork, parts: Iterator[Part | None], plan: Plan, output: Output, jobs: int,
                      summary: Summary, stop: Stop, report: Report) -> None:
    context = multiprocessing.get_context("spawn")
    stop_event, progress = context.Event(), context.Queue()
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_init_worker_process,
                               initargs=(work, stop_event, progress, os.getpid()))
    running: dict[Future, Part] = {}
    phase = f"starting {jobs} processes"
    try:
        has_more_parts = True
        while has_more_parts or running:
            while has_more_parts and len(running) < jobs and not stop.requested:
                part = next(parts, _END_OF_PARTS)
                if part is None:
                    if not running:
                        report.start_phase(plan.describe_waiting())
                    break
                if part is _END_OF_PARTS:
                    has_more_parts = False
                else:
                    if not running:
                        report.start_phase(phase)
                        phase = ""
                    running[pool.submit(_make_part_in_worker, part, output)] = part
            if stop.requested:
                stop_event.set()
                has_more_parts = False
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            _report_progress(progress, report)
            for future in finished:
                _report_finished_part(future.result(), running.pop(future), summary, report)
        if stop.requested:
            raise _build_stopped_error()
    except BrokenProcessPool:
        kill_workers()
        raise OutOfMemory("a worker process was killed, probably by the system because memory ran out",
                          "Run the same command again with a smaller -j; finished work is kept"
                          f"{_suggest_smaller_images(work)}") from None
    finally:
        stop_event.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _suggest_smaller_images(work: MapWork) -> str:
    if not hasattr(work.config, "max_side"):
        return ""
    return f". A --max-side below {work.config.max_side or 2048} needs less memory too, but starts over"


def _build_stopped_error() -> Stopped:
    return Stopped("stopped by a signal", "Run the same command again to resume")


def _report_progress(progress: Any, report: Report) -> None:
    """Report the counts of images that the workers have put into the queue."""
    try:
        while True:
            count, resumed = progress.get_nowait()
            report.start_phase("")
            report.advance(count, resumed=resumed)
    except queue.Empty:
        return


# Set in each worker process by _init_worker_process, and the worker by its first part.
_worker: Worker | None = None
_work: MapWork | None = None
_stop_event: Any = None
_progress: Any = None


def _init_worker_process(work: MapWork, stop_event: Any, progress: Any, parent: int) -> None:
    global _work, _stop_event, _progress
    tie_to_parent(parent)
    _work, _stop_event, _progress = work, stop_event, progress


def _make_part_in_worker(part: Part, output: Output) -> Summary:
    global _worker
    if _worker is None:
        times = PhaseTimes()
        with times.measure(PREPARE):
            _worker = _work.build_worker()
        write_profile_line(output.profile, {"stage": _work.stage, **times.describe()})
    return make_part(_work, _worker, part, output, should_stop=_stop_event.is_set, advance=_send_progress)


def _send_progress(count: int, *, resumed: bool = False) -> None:
    _progress.put((count, resumed))
