"""When the disk cannot be written: an ordinary error, no incomplete file, and the old file unchanged."""

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

from shards.samples import build_contents
from stages.errors import CannotCreate, IoFailed, Stopped
from stages.shards import Item, Journal, Shard, write_shard
from stages.shards.disk import append_line, lock_file, replace_file


@contextmanager
def _limit_file_size(size: int) -> Iterator[None]:
    """Limit files to `size` bytes: larger writes fail with EFBIG, as with a full quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_failed_write_of_a_shard_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "masks.h5"
    write_shard(path, build_contents("masks", ("old",)))
    message = r"masks\.h5: can't be written \(File too large\)"
    with _limit_file_size(5000), pytest.raises(IoFailed, match=message) as caught:
        write_shard(path, build_contents("masks"))
    assert caught.value.code == 74
    assert Shard(path).ids == ("old",)
    assert [file.name for file in tmp_path.iterdir()] == ["masks.h5"]
    write_shard(path, build_contents("masks"))
    assert len(Shard(path).ids) > 1


def test_a_failed_write_of_a_journal_keeps_its_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "x.h5.part"
    journal = Journal(path, {"a": 1})
    items = [(position, Item(str(position), {"cam": np.full(1000, position, np.uint8)})) for position in range(4)]
    journal.append(items[:2])
    size = path.stat().st_size + 700
    with _limit_file_size(size), pytest.raises(IoFailed, match=r"x\.h5\.part.*work is kept") as caught:
        journal.append(items[2:])
    assert caught.value.code == 74
    assert list(journal.items) == [0, 1]
    journal.close()
    again = Journal(path, {"a": 1})
    assert list(again.items) == [0, 1]
    again.append(items[2:])
    again.close()
    assert list(Journal(path, {"a": 1}).items) == [0, 1, 2, 3]


@pytest.mark.parametrize("size", [16 << 10, 40 << 10])
def test_a_full_disk_leaves_no_files(tmp_path: Path, size: int) -> None:
    """The shard does not fit on a file system of a few pages, and no files are left."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", tmp_path],
                      capture_output=True).returncode:
        pytest.skip("a small file system can't be mounted here")
    try:
        random = np.random.default_rng(0).integers(0, 255, (60, 1000), dtype=np.uint8)
        with pytest.raises(IoFailed, match="No space left on device"):
            write_shard(tmp_path / "masks.h5", build_contents("masks", items=[Item("a", {"mask": random})]))
        assert not list(tmp_path.iterdir())
        write_shard(tmp_path / "masks.h5", build_contents("cooc", ids=()))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_paths_that_cannot_be_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.h5").mkdir()
    for path in (tmp_path / "none" / "x.h5", tmp_path / "file" / "x.h5", tmp_path / "folder.h5",
                 tmp_path / ("x" * 300)):
        with pytest.raises(CannotCreate) as caught:
            replace_file(path, b"data")
        assert caught.value.code == 73 and str(path) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.h5"]


def test_a_pipe_or_a_device_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(CannotCreate, match="pipe: is a device or a pipe"):
        replace_file(pipe, b"data")
    assert pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]


def test_a_file_that_another_process_writes_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    descriptor = lock_file(tmp_path / "x.h5.tmp", path)
    os.write(descriptor, b"half of the other's data")
    with pytest.raises(Stopped, match=r"x\.h5: another process") as caught:
        replace_file(path, b"ours")
    assert caught.value.code == 75 and not path.exists()
    os.close(descriptor)
    replace_file(path, b"ours")
    assert path.read_bytes() == b"ours"


def test_a_file_is_old_or_new_after_a_kill_at_any_system_call(tmp_path: Path) -> None:
    """Exit the writing process at each of its system calls in turn, by a hook."""
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
def test_only_a_torn_last_line_of_a_log_is_removed(tmp_path: Path, before: bytes, after: bytes) -> None:
    (tmp_path / "log").write_bytes(before)
    append_line(tmp_path / "log", b'{"c": 3}')
    assert (tmp_path / "log").read_bytes() == after + b'{"c": 3}\n'


def test_writes_to_a_folder_that_is_not_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def deny_folders(path: object, flags: int, *more: int) -> int:
        if flags & os.O_DIRECTORY:
            raise PermissionError(13, "Permission denied")
        return real_open(path, flags, *more)

    monkeypatch.setattr(os, "open", deny_folders)
    replace_file(tmp_path / "a.h5", b"data")
    assert (tmp_path / "a.h5").read_bytes() == b"data"


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_line_of_the_log_waits_briefly_for_another_writer(tmp_path: Path, is_killed: bool) -> None:
    other = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    fcntl.flock(other, fcntl.LOCK_EX)
    os.write(other, b'{"a": ')
    writer = threading.Thread(target=append_line, args=(tmp_path / "log", b'{"c": 3}'))
    writer.start()
    time.sleep(0.1)
    if is_killed:  # like a worker that is killed while it writes its line
        os.close(other)
    writer.join(60)
    assert not writer.is_alive()
    assert (tmp_path / "log").read_bytes() == (b"" if is_killed else b'{"a": ') + b'{"c": 3}\n'
    if not is_killed:
        os.close(other)
