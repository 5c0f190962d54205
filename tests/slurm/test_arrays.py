"""Job arrays make what one process makes, byte for byte, and each task its own part and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.runner import SMALL, good, index_table
from pictures import make_folder
from slurm.conftest import MAPS, TASKS, Site

RUNS = ("cams", "crf", "masks")


@pytest.fixture(scope="module")
def chain(site: Site) -> list[str]:
    """Return the jobs of a chain of three arrays that went through, in the folder `array`."""
    jobs = site.chain("array")
    for job in jobs:
        tasks = site.cluster.wait(job)
        assert {task.state for task in tasks.values()} == {"COMPLETED"}, (tasks, site.log(job, 0))
        assert sorted(tasks) == list(range(TASKS))
    return jobs


def test_three_arrays_behind_each_other_make_the_bytes_of_one_process(site: Site, chain: list[str]) -> None:
    for run in RUNS:
        assert len(site.shards(f"array/{run}")) == TASKS
        assert site.shards(f"array/{run}") == site.shards(f"serial/{run}"), run
    for job, run in zip(chain, RUNS, strict=True):
        for task in range(TASKS):
            made = [line for line in site.log(job, task).splitlines() if line.endswith(".h5")]
            kind = "masks" if run == "masks" else "cams"
            assert made == [f"array/{run}/{kind}-{task:05d}-of-{TASKS:05d}.h5"], "a task makes its own part alone"


def test_an_array_that_is_finished_does_nothing_when_it_is_submitted_again(site: Site, chain: list[str]) -> None:
    def there() -> dict[Path, tuple[int, bytes]]:
        files = (path for path in (site.folder / "array").rglob("*") if path.is_file())
        return {path: (path.stat().st_ino, path.read_bytes()) for path in files}

    before = there()
    job = site.submit("map.sbatch", "pseudo", "array/crf", "-o", "array/masks",
                      options=(f"--array=0-{TASKS - 1}",), TASKS=TASKS)
    assert {(task.state, task.restarts) for task in site.cluster.wait(job).values()} == {("COMPLETED", 0)}
    assert before == there(), "not even a line in a run's log"
    for task in range(TASKS):
        name = f"array/masks/masks-{task:05d}-of-{TASKS:05d}.h5"
        assert site.log(job, task).splitlines() == [f"{name} is up to date", name]


def test_a_task_that_fails_takes_its_own_chain_with_it_and_is_mended_alone(site: Site) -> None:
    """Picture 9 is in part 2 of 4: its maps are refused, so the CRF and the masks of part 2 are cancelled."""
    root = Path(shutil.copytree(site.folder / "pictures", site.folder / "broken"))
    (root / "JPEGImages" / "picture_009.jpg").write_bytes(b"no picture")
    jobs = site.chain("mended", WSSS_ROOT=root)
    tasks = [site.cluster.wait(job) for job in jobs]
    assert {number: (task.state, task.code) for number, task in tasks[0].items()} == {
        0: ("COMPLETED", 0), 1: ("COMPLETED", 0), 2: ("FAILED", 65), 3: ("COMPLETED", 0)}
    assert "1 of 4 images were refused" in site.log(jobs[0], 2)
    for job, run, after in zip(jobs[1:], RUNS[1:], tasks[1:], strict=True):
        assert {number: task.state for number, task in after.items()} == {
            0: "COMPLETED", 1: "COMPLETED", 2: "CANCELLED", 3: "COMPLETED"}
        assert after[2].reason == "DependencyNeverSatisfied" and not site.log(job, 2)
        whole = site.shards(f"serial/{run}")
        assert site.shards(f"mended/{run}") == {name: data for name, data in whole.items() if "-00002-" not in name}

    for job in site.chain("mended", ARRAY=2, CAMS=" ".join((*MAPS, "--retry"))):
        assert {number: task.state for number, task in site.cluster.wait(job).items()} == {2: "COMPLETED"}
    for run in RUNS:
        assert site.shards(f"mended/{run}") == site.shards(f"serial/{run}")


def test_tasks_3_and_17_of_64_alone_do_exactly_those(site: Site) -> None:
    """Two shards of 64 are lacking; two tasks make them, and touch no other."""
    pictures = make_folder(site.folder / "wide", n=64, size=(24, 32))
    assert index_table(pictures.root, site.folder / "wide.h5").code == 0
    command = ("cams", "cnn", "wide.h5", "--net", "cam.safetensors", *SMALL, "--shard-size", "1", "-o")
    good(*command, "serial/wide", "-j", "1", cwd=site.folder)
    wide = Path(shutil.copytree(site.folder / "serial" / "wide", site.folder / "two" / "wide"))
    names = [f"cams-{part:05d}-of-00064.h5" for part in range(64)]
    for part in (3, 17):
        (wide / names[part]).unlink()
    times = {path.name: path.stat().st_mtime_ns for path in wide.glob("*.h5")}
    assert len(times) == 62

    job = site.submit("map.sbatch", *command, "two/wide", options=("--array=3,17",), TASKS=64)
    tasks = site.cluster.wait(job)
    assert {number: task.state for number, task in tasks.items()} == {3: "COMPLETED", 17: "COMPLETED"}
    assert sorted(site.shards("two/wide")) == names
    assert site.shards("two/wide") == site.shards("serial/wide")
    assert times == {name: (wide / name).stat().st_mtime_ns for name in times}


@pytest.mark.parametrize(("options", "env", "told"), [
    ((), {"TASKS": 64}, "submit an array"), (("--array=3",), {}, "export TASKS=64"),
    (("--array=3",), {"TASKS": 3}, "--task 3/3")], ids=["no array", "of how many", "too few"])
def test_an_array_that_can_not_be_meant_so(site: Site, options: tuple[str, ...], env: dict[str, int],
                                           told: str) -> None:
    job = site.submit("map.sbatch", "pseudo", "serial/crf", "-o", "nothing/masks", options=options, **env)
    [task] = site.cluster.wait(job).values()
    assert task.state == "FAILED" and task.code in (1, 2)
    assert told in "".join(path.read_text() for path in site.folder.glob(f"wsss-map-{job}_*.log"))
    assert not (site.folder / "nothing").exists()
