"""Job arrays write the same bytes as one process, and each task writes only its part."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from cli.runner import SMALL, index_table, run_ok
from slurm.conftest import CAMS_OPTIONS, TASKS, Site
from tiny_datasets import create_dataset

RUNS = ("cams", "crf", "masks")


@pytest.fixture(scope="module")
def chain(site: Site) -> list[str]:
    """Return the jobs of a completed chain of three arrays in the folder `array`."""
    jobs = site.submit_chain("array")
    for job in jobs:
        tasks = site.cluster.wait_for_job(job)
        assert {task.state for task in tasks.values()} == {"COMPLETED"}, (tasks, site.read_log(job, 0))
        assert sorted(tasks) == list(range(TASKS))
    return jobs


def test_chain_of_arrays_writes_the_bytes_of_one_process(site: Site, chain: list[str]) -> None:
    for run in RUNS:
        assert len(site.read_shards(f"array/{run}")) == TASKS
        assert site.read_shards(f"array/{run}") == site.read_shards(f"serial/{run}"), run
    for job, run in zip(chain, RUNS, strict=True):
        for task in range(TASKS):
            output_paths = [line for line in site.read_log(job, task).splitlines() if line.endswith(".h5")]
            kind = "masks" if run == "masks" else "cams"
            assert output_paths == [f"array/{run}/{kind}-{task:05d}-of-{TASKS:05d}.h5"], "wrote other parts"


def test_finished_array_does_nothing_when_submitted_again(site: Site, chain: list[str]) -> None:
    def read_files() -> dict[Path, tuple[int, bytes]]:
        files = (path for path in (site.folder / "array").rglob("*") if path.is_file())
        return {path: (path.stat().st_ino, path.read_bytes()) for path in files}

    before = read_files()
    job = site.submit("map.sbatch", "pseudo", "array/crf", "-o", "array/masks",
                      options=(f"--array=0-{TASKS - 1}",), TASKS=TASKS)
    assert {(task.state, task.restarts) for task in site.cluster.wait_for_job(job).values()} == {("COMPLETED", 0)}
    assert before == read_files(), "a file has changed, perhaps a log"
    for task in range(TASKS):
        name = f"array/masks/masks-{task:05d}-of-{TASKS:05d}.h5"
        lines = site.read_log(job, task).splitlines()
        assert lines[:2] == [f"{name} is up to date", name]
        assert len(lines) == 3 and re.fullmatch(r"pseudo: up to date \(\d+ images\)", lines[2])


def test_failed_task_cancels_only_its_chain_and_can_be_repeated(site: Site) -> None:
    """Image 9 in part 2 of 4 is damaged: its CAMs fail, so the CRF and the masks of part 2 are cancelled."""
    root = Path(shutil.copytree(site.folder / "pictures", site.folder / "broken"))
    (root / "JPEGImages" / "picture_009.jpg").write_bytes(b"no picture")
    jobs = site.submit_chain("mended", WSSS_ROOT=root)
    tasks = [site.cluster.wait_for_job(job) for job in jobs]
    assert {number: (task.state, task.code) for number, task in tasks[0].items()} == {
        0: ("COMPLETED", 0), 1: ("COMPLETED", 0), 2: ("FAILED", 65), 3: ("COMPLETED", 0)}
    assert "1 of 4 images failed" in site.read_log(jobs[0], 2)
    for job, run, later_tasks in zip(jobs[1:], RUNS[1:], tasks[1:], strict=True):
        assert {number: task.state for number, task in later_tasks.items()} == {
            0: "COMPLETED", 1: "COMPLETED", 2: "CANCELLED", 3: "COMPLETED"}
        assert later_tasks[2].reason == "DependencyNeverSatisfied" and not site.read_log(job, 2)
        serial_shards = site.read_shards(f"serial/{run}")
        assert site.read_shards(f"mended/{run}") == {name: data for name,
                                                     data in serial_shards.items() if "-00002-" not in name}

    for job in site.submit_chain("mended", ARRAY=2, CAMS=" ".join((*CAMS_OPTIONS, "--retry"))):
        assert {number: task.state for number, task in site.cluster.wait_for_job(job).items()} == {2: "COMPLETED"}
    for run in RUNS:
        assert site.read_shards(f"mended/{run}") == site.read_shards(f"serial/{run}")


def test_tasks_3_and_17_of_64_make_only_their_parts(site: Site) -> None:
    """Two of 64 shards are missing; two tasks make them and change no other."""
    pictures = create_dataset(site.folder / "wide", n=64, size=(24, 32))
    assert index_table(pictures.root, site.folder / "wide.h5").code == 0
    command = ("cams", "cnn", "wide.h5", "--net", "cam.safetensors", *SMALL, "--shard-size", "1", "-o")
    run_ok(*command, "serial/wide", "-j", "1", cwd=site.folder)
    wide = Path(shutil.copytree(site.folder / "serial" / "wide", site.folder / "two" / "wide"))
    names = [f"cams-{part:05d}-of-00064.h5" for part in range(64)]
    for part in (3, 17):
        (wide / names[part]).unlink()
    times = {path.name: path.stat().st_mtime_ns for path in wide.glob("*.h5")}
    assert len(times) == 62

    job = site.submit("map.sbatch", *command, "two/wide", options=("--array=3,17",), TASKS=64)
    tasks = site.cluster.wait_for_job(job)
    assert {number: task.state for number, task in tasks.items()} == {3: "COMPLETED", 17: "COMPLETED"}
    assert sorted(site.read_shards("two/wide")) == names
    assert site.read_shards("two/wide") == site.read_shards("serial/wide")
    assert times == {name: (wide / name).stat().st_mtime_ns for name in times}


@pytest.mark.parametrize(("options", "env", "message"), [
    ((), {"TASKS": 64}, "submit an array"), (("--array=3",), {}, "export TASKS=64"),
    (("--array=3",), {"TASKS": 3}, "--task 3/3")], ids=["no array", "of how many", "too few"])
def test_rejects_invalid_arrays(site: Site, options: tuple[str, ...], env: dict[str, int],
                                message: str) -> None:
    job = site.submit("map.sbatch", "pseudo", "serial/crf", "-o", "nothing/masks", options=options, **env)
    [task] = site.cluster.wait_for_job(job).values()
    assert task.state == "FAILED" and task.code in (1, 2)
    assert message in "".join(path.read_text() for path in site.folder.glob(f"wsss-map-{job}_*.log"))
    assert not (site.folder / "nothing").exists()


def test_counts_and_indexes_of_arrays_are_those_of_one_process(site: Site) -> None:
    commands = {"counted.json": ("eval", "serial/masks"), "swept.json": ("eval", "serial/cams"),
                "counted.h5": ("cooc", "train.h5"),
                "indexed": ("index", "table", "pictures/labels.csv", "--images", "pictures/JPEGImages", "--masks",
                            "pictures/SegmentationClass", "--shard-size", "4")}
    for output, words in commands.items():
        run_ok(*words, "-q", "-o", f"one-{output}", cwd=site.folder)
        job = site.submit("map.sbatch", *words, "-o", output, options=(f"--array=0-{TASKS - 1}",), TASKS=TASKS)
        tasks = site.cluster.wait_for_job(job)
        assert {task.state for task in tasks.values()} == {"COMPLETED"}, site.read_log(job)
        for path in sorted((site.folder / f"one-{output}").glob("*.h5")) or [site.folder / f"one-{output}"]:
            other = site.folder / str(path.relative_to(site.folder)).removeprefix("one-")
            assert other.read_bytes() == path.read_bytes(), output
