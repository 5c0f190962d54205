"""A task that is stopped in its work, in whatever way a cluster does that, goes on and ends as if it had not been."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cli.runner import good, index_table
from pictures import make_folder
from slurm.cluster import Cluster, Task, until
from slurm.conftest import Site
from stages.shards.journal import frames

# Half a second an image on one core.
SLOW = ("--scales", "8,8,8,8", "--batch-size", "1", "--shard-size", "8", "--device", "cpu")
NAME = "cams-00000-of-00002.h5"


@pytest.fixture(scope="module")
def whole(site: Site) -> bytes:
    """Return the first shard of slow maps, made by one process that nobody disturbed."""
    good("cams", "cnn", "train.h5", "--net", "cam.safetensors", *SLOW, "--task", "0/2", "-j", "1", "-o", "serial/slow",
         cwd=site.folder)
    return (site.folder / "serial" / "slow" / NAME).read_bytes()


def submit(site: Site, run: str, *options: str, index: str = "train.h5", maps: tuple[str, ...] = SLOW) -> str:
    """Submit task 0 of 2 of slow maps."""
    return site.submit("map.sbatch", "cams", "cnn", index, "--net", "cam.safetensors", *maps, "-o", run,
                       options=("--array=0", *options), TASKS=2)


def task_of(cluster: Cluster, job: str) -> Task:
    """Return the one task of a job."""
    [task] = cluster.tasks(job).values()
    return task


def kept(path: Path) -> bytes:
    """Return what is in a journal; nothing where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def images(journal: bytes) -> int:
    """Return how many images a journal holds behind its head."""
    return max(0, len(frames(journal)[0]) - 1)


def in_its_work(path: Path) -> bytes:
    """Wait until the journal at `path` holds two images, and return it."""
    until(lambda: images(kept(path)) >= 2, 150)
    return kept(path)


@contextmanager
def held(site: Site, job: str) -> Iterator[None]:
    """Hold the processes of a job, so that it is at work as long as a test needs it to be."""
    processes = site.cluster.processes(job)
    assert processes
    _signal(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(processes, signal.SIGCONT)


def _signal(processes: set[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def goes_on(site: Site, job: str, path: Path, before: bytes) -> None:
    """Check that the second run of a job adds to the journal that the first has left, and begins no other."""
    until(lambda: task_of(site.cluster, job).state == "RUNNING", 150)
    until(lambda: images(kept(path)) > images(before) or path.with_suffix("").exists(), 150)
    assert not path.exists() or kept(path).startswith(before)


def by_signal(site: Site, job: str) -> None:
    """The signal that `#SBATCH --signal` asks for, without its waiting."""
    site.cluster.call("scancel", "--signal=USR1", "--batch", job)


def by_requeue(site: Site, job: str) -> None:
    """As a preemption does it."""
    site.cluster.call("scontrol", "requeue", job)


def by_node(site: Site, job: str) -> None:
    """The node is lost, and comes back."""
    for words in (("state=down", "reason=test"), ("state=resume",)):
        site.cluster.call("scontrol", "update", f"nodename={site.cluster.node}", *words)
        until(lambda: task_of(site.cluster, job).restarts == 1, 60)


@pytest.mark.parametrize("stop", [by_signal, by_requeue, by_node], ids=["USR1", "requeue", "node down"])
def test_what_the_cluster_takes_back_goes_on_by_itself(site: Site, whole: bytes, stop: Callable[[Site, str], None],
                                                       request: pytest.FixtureRequest) -> None:
    run = f"{request.node.callspec.id.replace(' ', '-')}/slow"
    path = site.folder / run / f"{NAME}.part"
    job = submit(site, run)
    in_its_work(path)
    stop(site, job)
    until(lambda: task_of(site.cluster, job).restarts == 1 and not site.cluster.processes(job), 60)
    before = kept(path)
    assert 2 <= images(before) < 8 and not path.with_suffix("").exists()
    if stop is by_signal:
        assert f"stopped after {images(before)} of 8 images; run the same command again" in site.log(job, 0)
    goes_on(site, job, path, before)
    assert site.cluster.wait(job) == {0: Task("COMPLETED", 0, 1, "None")}
    assert site.shards(run) == {NAME: whole}
    assert not path.exists()


def test_what_was_cancelled_stays_so_and_goes_on_when_it_is_submitted_again(site: Site, whole: bytes) -> None:
    path = site.folder / "cancelled" / "slow" / f"{NAME}.part"
    job = submit(site, "cancelled/slow")
    in_its_work(path)
    site.cluster.call("scancel", job)
    until(lambda: task_of(site.cluster, job).state == "CANCELLED" and not site.cluster.processes(job), 60)
    before = kept(path)
    assert 2 <= images(before) < 8
    again = submit(site, "cancelled/slow")
    goes_on(site, again, path, before)
    assert site.cluster.wait(again)[0].state == "COMPLETED"
    assert site.shards("cancelled/slow") == {NAME: whole}
    assert (task_of(site.cluster, job).state, task_of(site.cluster, job).restarts) == ("CANCELLED", 0)


def test_two_tasks_at_work_on_one_part(site: Site, whole: bytes) -> None:
    """The second finds it locked, ends with 75 and queues itself again; when its turn comes, nothing is left to do."""
    path = site.folder / "twice" / "slow" / f"{NAME}.part"
    first = submit(site, "twice/slow")
    in_its_work(path)
    # Of four seconds of work half are left, and a busy machine may take longer than that to begin the second.
    with held(site, first):
        second = submit(site, "twice/slow")
        until(lambda: task_of(site.cluster, second).restarts >= 1, 150)
    assert site.cluster.wait(first) == {0: Task("COMPLETED", 0, 0, "None")}
    assert site.cluster.wait(second)[0].state == "COMPLETED"
    assert "another process is at work on it" in site.log(second, 0)
    assert "is up to date" in site.log(second, 0)
    assert site.shards("twice/slow") == {NAME: whole}


def test_the_time_limit_comes_and_the_task_is_back_in_the_queue_before_it(site: Site) -> None:
    """The signal is SLURM's own, of a limit of two minutes; the work would take more.

    SLURM looks every 30 s, and sends it up to 30 s early: 35 to 65 s after the start.
    """
    pictures = make_folder(site.folder / "many", n=400)
    assert index_table(pictures.root, site.folder / "many.h5").code == 0
    path = site.folder / "limit" / "slow" / "cams-00000-of-00001.h5.part"
    job = submit(site, "limit/slow", "--time=2", "--signal=B:USR1@55", index="many.h5",
                 maps=("--scales", "8,8,8,8", "--batch-size", "1", "--shard-size", "400", "--device", "cpu"))
    try:
        until(lambda: task_of(site.cluster, job).restarts == 1 and not site.cluster.processes(job), 150)
        before = kept(path)
        assert "stopped after" in site.log(job, 0) and images(before) >= 1
        goes_on(site, job, path, before)
        assert "TIME LIMIT" not in site.log(job, 0)
    finally:
        site.cluster.call("scancel", job)
    site.cluster.wait(job)
