"""Paths are worked on as they come: a downstream stage neither waits for the end nor sleeps through a signal."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow.workers import Bench, Told
from stages.errors import MissingInput, Stopped
from stages.flow.pictures import image_files
from stages.flow.stream import LivePaths, arriving
from waiting import wait_until


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Return (reading end, writing end); a test may close the writing end."""
    reading, writing = os.pipe()
    yield reading, writing
    for end in (reading, writing):
        with contextlib.suppress(OSError):
            os.close(end)


@pytest.mark.parametrize(("data", "null", "paths"), [
    (b"a.h5\nb b.h5\r\n\n \xe7\x8a\xac.h5\nlast", False, ["a.h5", "b b.h5", " 犬.h5", "last"]),
    (b"a\nb.h5\0c.h5\r\0\0d", True, ["a\nb.h5", "c.h5\r", "d"]),
    (b"", False, []), (b"\n\n", False, []), (b"\xff.h5\n", False, ["\udcff.h5"]),
])
def test_paths_end_in_a_line_break_or_in_nul(pipe: tuple[int, int], data: bytes, null: bool, paths: list) -> None:
    def write() -> None:
        for byte in data:
            os.write(pipe[1], bytes([byte]))
        os.close(pipe[1])

    threading.Thread(target=write).start()
    assert list(LivePaths(pipe[0], null=null)) == paths


def test_what_is_there_comes_at_once_and_none_while_there_is_nothing(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"a\nb\nhalf")
    paths = arriving(LivePaths(pipe[0]))
    assert [next(paths) for _ in range(4)] == ["a", "b", None, None]
    os.write(pipe[1], b"way\n")
    assert next(paths) == "halfway"
    os.close(pipe[1])
    assert list(paths) == []
    assert list(arriving(["x", "y"])) == ["x", "y"]


def test_to_look_ahead_takes_nothing(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"a.h5\nb.h5\n")
    paths = LivePaths(pipe[0])
    whole, pictures = image_files(paths)
    assert pictures == [] and whole is paths
    os.close(pipe[1])
    assert paths.peek() == "a.h5" and list(paths) == ["a.h5", "b.h5"]
    assert paths.peek() is None


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_first_shard_is_done_before_the_second_path_comes(tmp_path: Path, pipe: tuple[int, int],
                                                              jobs: int) -> None:
    bench = Bench(tmp_path, ("a",))
    parts = [bench.write_index(tmp_path / "in" / f"{part}.h5", [f"a{part}"], part=part, parts=3) for part in range(3)]
    told, seen = Told(), []

    def feed() -> None:
        for part in parts:
            os.write(pipe[1], f"{part}\n".encode())
            wait_until(lambda: len(told.paths) > len(seen))
            seen.append(list(told.paths))
        os.close(pipe[1])

    feeder = threading.Thread(target=feed)
    feeder.start()
    bench.run(paths=LivePaths(pipe[0]), jobs=jobs, told=told)
    feeder.join()
    assert [len(paths) for paths in seen] == [1, 2, 3]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_stop_is_heard_while_nothing_comes(tmp_path: Path, pipe: tuple[int, int], jobs: int) -> None:
    bench, told = Bench(tmp_path, ("a",)), Told()
    first = bench.write_index(tmp_path / "in" / "0.h5", ["a0"], part=0, parts=3)
    os.write(pipe[1], f"{first}\n".encode())
    finished = told.finished

    def stop_after(path: Path) -> None:
        finished(path)
        told.stop.requested = True

    told.finished = stop_after  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        bench.run(paths=LivePaths(pipe[0]), jobs=jobs, told=told)
    assert told.paths == ["masks-00000-of-00003.h5"]


def test_a_stream_that_ends_early_is_a_run_with_holes(tmp_path: Path, pipe: tuple[int, int]) -> None:
    bench = Bench(tmp_path, ("a",))
    first = bench.write_index(tmp_path / "in" / "1.h5", ["a1"], part=1, parts=3)
    os.write(pipe[1], f"{first}\n".encode())
    os.close(pipe[1])
    with pytest.raises(MissingInput, match="part 0, 2"):
        bench.run(paths=LivePaths(pipe[0]))
    assert bench.told.paths == ["masks-00001-of-00003.h5"]


def test_an_empty_stream(tmp_path: Path, pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    with pytest.raises(MissingInput, match="no input"):
        Bench(tmp_path, ("a",)).run(paths=LivePaths(pipe[0]))
