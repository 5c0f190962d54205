"""A file system that is really full: it is enlarged page by page, and the same command goes on each time."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.runner import refused
from crash.commands import Server
from crash.promises import Whole, only_whole_files, same_files

Of = Callable[[str], Whole]


@contextmanager
def _small(place: Path, limit: str) -> Iterator[None]:
    """Put a file system of its own under a folder; skip where that may not be."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", limit, "tmpfs", place], capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def _remount(place: Path, limit: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{limit}", place], check=True)


@pytest.mark.parametrize("name", ["cams-cnn", *(pytest.param(name, marks=pytest.mark.crash) for name in (
    "refine-pamr", "train-cls", "train-aff-psa", "index", "export-voc"))])
def test_on_a_disk_that_grows_a_command_goes_on_each_time(server: Server, whole: Of, name: str) -> None:
    one = whole(name)
    step = 1 << 20 if one.command.kind == "net" else 12 << 10
    _grows(server, one, [f"size={size}" for size in range(step, 40 * step, step)])


@pytest.mark.crash
def test_where_no_more_files_can_be_made(server: Server, whole: Of) -> None:
    _grows(server, whole("cams-cnn"), [f"nr_inodes={count}" for count in range(2, 12)])


def _grows(server: Server, one: Whole, limits: list[str]) -> None:
    """Run a command under each limit until it ends well: refused until then, and nothing half made or made twice."""
    server.fresh()
    with _small(server.work, limits[0]):
        for limit in limits:
            _remount(server.work, limit)
            done = server.run(one.command.args)
            if done.code == 0:
                break
            refused(done, 74, "No space left on device", "is kept")
            only_whole_files(server, one)
        assert done.code == 0 and limit != limits[0], "the first limit is to be too small, one of the next large enough"
        same_files(server, one)
