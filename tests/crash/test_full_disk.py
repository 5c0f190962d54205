"""Resuming on a file system that is really full and is enlarged page by page."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.runner import check_error
from crash.commands import Server
from crash.invariants import RunUndisturbed, UndisturbedRun, check_same_files, check_whole_files


@contextmanager
def mount_small_disk(folder: Path, limit: str) -> Iterator[None]:
    """Mount a small file system on a folder, or skip the test if that is not permitted."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", limit, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def resize_disk(folder: Path, limit: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{limit}", folder], check=True)


@pytest.mark.parametrize("name", ["cams-cnn", *(pytest.param(name, marks=pytest.mark.crash) for name in (
    "refine-pamr", "train-cls", "train-aff-psa", "index", "export-voc"))])
def test_resumes_on_a_growing_disk(server: Server, undisturbed: RunUndisturbed, name: str) -> None:
    expected = undisturbed(name)
    step = 1 << 20 if expected.command.kind == "net" else 12 << 10
    run_on_growing_disk(server, expected, [f"size={size}" for size in range(step, 40 * step, step)])


@pytest.mark.crash
def test_resumes_without_free_inodes(server: Server, undisturbed: RunUndisturbed) -> None:
    run_on_growing_disk(server, undisturbed("cams-cnn"), [f"nr_inodes={count}" for count in range(2, 12)])


def run_on_growing_disk(server: Server, expected: UndisturbedRun, limits: list[str]) -> None:
    """Run a command under each limit until it succeeds; until then it must fail cleanly, with complete files only."""
    server.clear_work()
    with mount_small_disk(server.work, limits[0]):
        for limit in limits:
            resize_disk(server.work, limit)
            done = server.run(expected.command.args)
            if done.code == 0:
                break
            check_error(done, 74, "No space left on device", "is kept")
            check_whole_files(server, expected)
        assert done.code == 0 and limit != limits[0], "the first limit must be too small, another large enough"
        check_same_files(server, expected)
