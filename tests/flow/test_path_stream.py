"""Paths on standard input are processed as they arrive, and a signal stops the command while it waits for one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flow.workers import RecordingReport, StageRunner
from stages.errors import MissingInput, Stopped
from stages.flow.image_files import select_image_files
from stages.flow.path_stream import LivePaths, poll_paths
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
def test_splits_paths_at_line_breaks_or_nul(pipe: tuple[int, int], data: bytes, null: bool, paths: list) -> None:
    def write() -> None:
        for byte in data:
            os.write(pipe[1], bytes([byte]))
        os.close(pipe[1])

    threading.Thread(target=write).start()
    assert list(LivePaths(pipe[0], null=null)) == paths


def test_yields_paths_at_once_and_none_while_there_is_no_path(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"a\nb\nhalf")
    paths = poll_paths(LivePaths(pipe[0]))
    assert [next(paths) for _ in range(4)] == ["a", "b", None, None]
    os.write(pipe[1], b"way\n")
    assert next(paths) == "halfway"
    os.close(pipe[1])
    assert list(paths) == []
    assert list(poll_paths(["x", "y"])) == ["x", "y"]


def test_peeking_consumes_no_path(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"a.h5\nb.h5\n")
    paths = LivePaths(pipe[0])
    shard_paths, image_files = select_image_files(paths)
    assert image_files == [] and shard_paths is paths
    os.close(pipe[1])
    assert paths.peek() == "a.h5" and list(paths) == ["a.h5", "b.h5"]
    assert paths.peek() is None


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_first_shard_is_finished_before_the_second_path_arrives(tmp_path: Path, pipe: tuple[int, int],
                                                                    jobs: int) -> None:
    runner = StageRunner(tmp_path, ("a",))
    parts = [runner.write_index(tmp_path / "in" / f"{part}.h5", [f"a{part}"], part=part, parts=3) for part in range(3)]
    report, seen = RecordingReport(), []

    def feed() -> None:
        for part in parts:
            os.write(pipe[1], f"{part}\n".encode())
            wait_until(lambda: len(report.paths) > len(seen))
            seen.append(list(report.paths))
        os.close(pipe[1])

    feeder = threading.Thread(target=feed)
    feeder.start()
    runner.run(paths=LivePaths(pipe[0]), jobs=jobs, report=report)
    feeder.join()
    assert [len(paths) for paths in seen] == [1, 2, 3]


@pytest.mark.parametrize("jobs", [1, 2])
def test_stops_while_it_waits_for_a_path(tmp_path: Path, pipe: tuple[int, int], jobs: int) -> None:
    runner, report = StageRunner(tmp_path, ("a",)), RecordingReport()
    first = runner.write_index(tmp_path / "in" / "0.h5", ["a0"], part=0, parts=3)
    os.write(pipe[1], f"{first}\n".encode())
    print_path = report.print_path

    def print_and_stop(path: Path) -> None:
        print_path(path)
        report.stop.requested = True

    report.print_path = print_and_stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        runner.run(paths=LivePaths(pipe[0]), jobs=jobs, report=report)
    assert report.paths == ["masks-00000-of-00003.h5"]


def test_parts_that_never_arrived_are_reported(tmp_path: Path, pipe: tuple[int, int]) -> None:
    runner = StageRunner(tmp_path, ("a",))
    first = runner.write_index(tmp_path / "in" / "1.h5", ["a1"], part=1, parts=3)
    os.write(pipe[1], f"{first}\n".encode())
    os.close(pipe[1])
    with pytest.raises(MissingInput, match="part 0, 2"):
        runner.run(paths=LivePaths(pipe[0]))
    assert runner.report.paths == ["masks-00001-of-00003.h5"]


def test_rejects_an_empty_stream(tmp_path: Path, pipe: tuple[int, int]) -> None:
    os.close(pipe[1])
    with pytest.raises(MissingInput, match="no input"):
        StageRunner(tmp_path, ("a",)).run(paths=LivePaths(pipe[0]))


def test_a_waiting_reader_and_stage_say_so(tmp_path, pipe):
    reading, writing = pipe
    report, runner = RecordingReport(), StageRunner(tmp_path, ("a",))
    paths = [runner.write_index(tmp_path / f"index-0000{part}-of-00002.h5", name, part=part, parts=2)
             for part, name in enumerate("ab")]

    def send_paths() -> None:
        assert wait_until(lambda: report.phases[-1:] == ["waiting for input"])
        os.write(writing, f"{paths[0]}\n".encode())
        assert wait_until(lambda: report.phases[-1:] == ["waiting for index"])
        os.write(writing, f"{paths[1]}\n".encode())
        assert wait_until(lambda: report.phases[-1:] == ["waiting for the end of the input"])
        os.close(writing)

    sender = threading.Thread(target=send_paths)
    sender.start()
    live = LivePaths(reading, report=report)
    assert live.peek() == str(paths[0])
    runner.run(paths=live, report=report)
    sender.join()
    assert report.num_new == 2 and report.totals == [(1, 2), (2, None)]
