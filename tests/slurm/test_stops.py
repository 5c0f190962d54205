"""A task that the cluster stops, in any of its ways, resumes and writes the same bytes as an undisturbed one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cli.runner import index_table, run_ok
from slurm.cluster import Cluster, Task, wait_until
from slurm.conftest import Site
from stages.shards.journal import decode_frames
from tiny_datasets import create_dataset

# Half a second per image on one core.
SLOW = ("--scales", "8,8,8,8", "--batch-size", "1", "--shard-size", "8", "--device", "cpu")
NAME = "cams-00000-of-00002.h5"


@pytest.fixture(scope="module")
def undisturbed_shard(site: Site) -> bytes:
    """Return the first shard of slow CAMs, made by one undisturbed process."""
    run_ok("cams", "cnn", "train.h5", "--net", "cam.safetensors", *SLOW, "--task", "0/2", "-j", "1", "-o",
           "serial/slow", cwd=site.folder)
    return (site.folder / "serial" / "slow" / NAME).read_bytes()


def submit(site: Site, run: str, *options: str, index: str = "train.h5", maps: tuple[str, ...] = SLOW) -> str:
    """Submit task 0 of 2 of slow CAMs."""
    return site.submit("map.sbatch", "cams", "cnn", index, "--net", "cam.safetensors", *maps, "-o", run,
                       options=("--array=0", *options), TASKS=2)


def get_task(cluster: Cluster, job: str) -> Task:
    """Return the only task of a job."""
    [task] = cluster.query_tasks(job).values()
    return task


def read_journal(path: Path) -> bytes:
    """Return the contents of a journal, empty if it does not exist."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def count_images(journal: bytes) -> int:
    """Return the number of images in a journal after its header."""
    return max(0, len(decode_frames(journal)[0]) - 1)


def wait_for_two_images(path: Path) -> bytes:
    """Wait until the journal at `path` holds two images, and return it."""
    wait_until(lambda: count_images(read_journal(path)) >= 2, 150)
    return read_journal(path)


@contextmanager
def pause_job(site: Site, job: str) -> Iterator[None]:
    """Pause the processes of a job, so that it does not finish during a test."""
    processes = site.cluster.find_processes(job)
    assert processes
    send_signal(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        send_signal(processes, signal.SIGCONT)


def send_signal(processes: set[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def check_resumes(site: Site, job: str, path: Path, before: bytes) -> None:
    """Check that the second run of a job appends to the journal of the first instead of starting a new one."""
    wait_until(lambda: get_task(site.cluster, job).state == "RUNNING", 150)
    wait_until(lambda: count_images(read_journal(path)) > count_images(before) or path.with_suffix("").exists(), 150)
    assert not path.exists() or read_journal(path).startswith(before)


def stop_by_signal(site: Site, job: str) -> None:
    """Send the signal of `#SBATCH --signal` at once."""
    site.cluster.run_program("scancel", "--signal=USR1", "--batch", job)


def stop_by_requeue(site: Site, job: str) -> None:
    """Requeue the job, like a preemption."""
    site.cluster.run_program("scontrol", "requeue", job)


def stop_by_node(site: Site, job: str) -> None:
    """Set the node down and resume it."""
    for settings in (("state=down", "reason=test"), ("state=resume",)):
        site.cluster.run_program("scontrol", "update", f"nodename={site.cluster.node}", *settings)
        wait_until(lambda: get_task(site.cluster, job).restarts == 1, 60)


@pytest.mark.parametrize("stop", [stop_by_signal, stop_by_requeue, stop_by_node], ids=["USR1", "requeue", "node down"])
def test_resumes_after_a_requeue(site: Site, undisturbed_shard: bytes, stop: Callable[[Site, str], None],
                                 request: pytest.FixtureRequest) -> None:
    run = f"{request.node.callspec.id.replace(' ', '-')}/slow"
    path = site.folder / run / f"{NAME}.part"
    job = submit(site, run)
    wait_for_two_images(path)
    stop(site, job)
    wait_until(lambda: get_task(site.cluster, job).restarts == 1 and not site.cluster.find_processes(job), 60)
    before = read_journal(path)
    assert 2 <= count_images(before) < 8 and not path.with_suffix("").exists()
    if stop is stop_by_signal:
        assert f"stopped after {count_images(before)} of 8 images. Run the same command again" in site.read_log(job, 0)
    check_resumes(site, job, path, before)
    assert site.cluster.wait_for_job(job) == {0: Task("COMPLETED", 0, 1, "None")}
    assert site.read_shards(run) == {NAME: undisturbed_shard}
    assert not path.exists()


def test_cancelled_job_resumes_when_submitted_again(site: Site, undisturbed_shard: bytes) -> None:
    path = site.folder / "cancelled" / "slow" / f"{NAME}.part"
    job = submit(site, "cancelled/slow")
    wait_for_two_images(path)
    site.cluster.run_program("scancel", job)
    wait_until(lambda: get_task(site.cluster, job).state == "CANCELLED" and not site.cluster.find_processes(job), 60)
    before = read_journal(path)
    assert 2 <= count_images(before) < 8
    resubmitted = submit(site, "cancelled/slow")
    check_resumes(site, resubmitted, path, before)
    assert site.cluster.wait_for_job(resubmitted)[0].state == "COMPLETED"
    assert site.read_shards("cancelled/slow") == {NAME: undisturbed_shard}
    assert (get_task(site.cluster, job).state, get_task(site.cluster, job).restarts) == ("CANCELLED", 0)


def test_two_tasks_of_one_part(site: Site, undisturbed_shard: bytes) -> None:
    """The second finds the part locked, exits with 75 and is requeued; then the part is up to date."""
    path = site.folder / "twice" / "slow" / f"{NAME}.part"
    first = submit(site, "twice/slow")
    wait_for_two_images(path)
    # Two seconds of work are left, and a busy machine may take longer than that to start the second task.
    with pause_job(site, first):
        second = submit(site, "twice/slow")
        wait_until(lambda: get_task(site.cluster, second).restarts >= 1, 150)
    assert site.cluster.wait_for_job(first) == {0: Task("COMPLETED", 0, 0, "None")}
    assert site.cluster.wait_for_job(second)[0].state == "COMPLETED"
    assert "another process is writing it" in site.read_log(second, 0)
    assert "is up to date" in site.read_log(second, 0)
    assert site.read_shards("twice/slow") == {NAME: undisturbed_shard}


def test_requeued_before_the_time_limit(site: Site) -> None:
    """SLURM itself sends the signal before a limit of two minutes; the work would take longer.

    SLURM checks every 30 s and sends it up to 30 s early: 35 to 65 s after the start.
    """
    pictures = create_dataset(site.folder / "many", n=400)
    assert index_table(pictures.root, site.folder / "many.h5").code == 0
    path = site.folder / "limit" / "slow" / "cams-00000-of-00001.h5.part"
    job = submit(site, "limit/slow", "--time=2", "--signal=B:USR1@55", index="many.h5",
                 maps=("--scales", "8,8,8,8", "--batch-size", "1", "--shard-size", "400", "--device", "cpu"))
    try:
        wait_until(lambda: get_task(site.cluster, job).restarts == 1 and not site.cluster.find_processes(job), 150)
        before = read_journal(path)
        assert "stopped after" in site.read_log(job, 0) and count_images(before) >= 1
        check_resumes(site, job, path, before)
        assert "TIME LIMIT" not in site.read_log(job, 0)
    finally:
        site.cluster.run_program("scancel", job)
    site.cluster.wait_for_job(job)
