"""A disk that says no: an ordinary error, nothing under the final name, and the old file untouched."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from shards.samples import contents
from stages.errors import CannotCreate, IoFailed, Stopped
from stages.shards import Item, Journal, Shard, write_shard
from stages.shards.disk import append_line, locked, replace_file


@contextmanager
def _files_up_to(size: int) -> Iterator[None]:
    """Let no file grow beyond `size` bytes: writes end with EFBIG, as on a full quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_no_room_for_the_shard_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "masks.h5"
    write_shard(path, contents("masks", ("old",)))
    with _files_up_to(5000), pytest.raises(IoFailed, match=r"masks\.h5: can't be written \(File too large\)") as told:
        write_shard(path, contents("masks"))
    assert told.value.code == 74
    assert Shard(path).ids == ("old",)
    assert [file.name for file in tmp_path.iterdir()] == ["masks.h5"]
    write_shard(path, contents("masks"))
    assert len(Shard(path).ids) > 1


def test_no_room_for_the_journal_keeps_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    journal = Journal(path, {"a": 1})
    items = [(place, Item(str(place), {"cam": np.full(1000, place, np.uint8)})) for place in range(4)]
    journal.append(items[:2])
    with _files_up_to(path.stat().st_size + 700), pytest.raises(IoFailed, match=r"x\.h5\.part.*is kept") as told:
        journal.append(items[2:])
    assert told.value.code == 74
    assert list(journal.items) == [0, 1]
    journal.close()
    again = Journal(path, {"a": 1})
    assert list(again.items) == [0, 1]
    again.append(items[2:])
    again.close()
    assert list(Journal(path, {"a": 1}).items) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [16 << 10, 40 << 10])
def test_a_full_disk(tmp_path: Path, size: int) -> None:
    """On a file system of a few pages: the shard does not fit, and nothing is left of the attempt."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path],
                      capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here")
    try:
        random = np.random.default_rng(0).integers(0, 255, (60, 1000), dtype=np.uint8)
        with pytest.raises(IoFailed, match="No space left on device"):
            write_shard(tmp_path / "masks.h5", contents("masks", items=[Item("a", {"mask": random})]))
        assert not list(tmp_path.iterdir())
        write_shard(tmp_path / "masks.h5", contents("cooc", ids=()))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_places_where_nothing_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.h5").mkdir()
    for place in (tmp_path / "none" / "x.h5", tmp_path / "file" / "x.h5", tmp_path / "folder.h5",
                  tmp_path / ("x" * 300)):
        with pytest.raises(CannotCreate) as told:
            replace_file(place, b"data")
        assert told.value.code == 73 and str(place) in str(told.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.h5"]


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CannotCreate, match="pipe: is a device or a pipe"):
        replace_file(pipe, b"data")
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    descriptor = locked(tmp_path / "x.h5.tmp", path)
    os.write(descriptor, b"half of the other's data")
    with pytest.raises(Stopped, match=r"x\.h5: another process") as told:
        replace_file(path, b"mine")
    assert told.value.code == 75 and not path.exists()
    os.close(descriptor)
    replace_file(path, b"mine")
    assert path.read_bytes() == b"mine"


def test_killed_at_any_moment_a_file_is_old_or_new(tmp_path: Path) -> None:
    """Stop the writer at every system call of its own in turn, by a hook that ends the process."""
    code = """
import os, sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from stages.shards.disk import replace_file
left = int(sys.argv[2])
def counted(real):
    def call(*args, **more):
        global left
        left -= 1
        if left < 0: os._exit(9)
        return real(*args, **more)
    return call
for name in ("open", "write", "fsync", "replace", "ftruncate"): setattr(os, name, counted(getattr(os, name)))
replace_file(Path(sys.argv[1]), b"new" * 1000)
"""
    path = tmp_path / "x"
    for calls in range(9):
        path.write_bytes(b"old")
        done = subprocess.run([sys.executable, "-c", code, path, str(calls), Path(__file__).parents[2]])
        assert path.read_bytes() in (b"old", b"new" * 1000)
        if done.returncode == 0:
            break
    assert done.returncode == 0 and calls > 4 and path.read_bytes() == b"new" * 1000
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(("before", "after"), [
    (b"", b""), (b'{"a": 1}\n', b'{"a": 1}\n'), (b'{"a": 1}\n{"b": ', b'{"a": 1}\n'), (b'{"a"', b""),
    (b"{", b""), (b'{"a": ' + b"[" * 200_000, b""), (b"{lr: 0.1, epochs: 12}", b"{lr: 0.1, epochs: 12}\n"),
    (b'{"a": 1}', b'{"a": 1}\n'), (b"my only copy", b"my only copy\n"), (b"one\ntwo", b"one\ntwo\n")])
def test_of_a_log_only_a_torn_line_is_cut_off(tmp_path: Path, before: bytes, after: bytes) -> None:
    (tmp_path / "log").write_bytes(before)
    append_line(tmp_path / "log", b'{"c": 3}')
    assert (tmp_path / "log").read_bytes() == after + b'{"c": 3}\n'


def test_a_folder_that_may_not_be_read_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refusing(path: object, flags: int, *more: int) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", refusing)
    replace_file(tmp_path / "a.h5", b"data")
    assert (tmp_path / "a.h5").read_bytes() == b"data"


@pytest.mark.parametrize("ends", [True, False])
def test_a_line_waits_for_who_writes_one_and_not_for_long(tmp_path: Path, ends: bool) -> None:
    other = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    os.write(other, b'{"a": ')
    writer = threading.Thread(target=append_line, args=(tmp_path / "log", b'{"c": 3}'))
    writer.start()
    time.sleep(0.1)
    if ends:  # as a worker that is killed within its line
        os.close(other)
    writer.join(60)
    assert not writer.is_alive()
    assert (tmp_path / "log").read_bytes() == (b"" if ends else b'{"a": ') + b'{"c": 3}\n'
    if not ends:
        os.close(other)
