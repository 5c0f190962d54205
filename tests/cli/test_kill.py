"""`wsss cams cnn`, interrupted at any moment by any means, resumes to the bytes of an undisturbed run."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.runner import list_messages
from conftest import CommandLine
from waiting import PATIENCE, wait_until

# Run by make test-crash, because each test starts a command up to a dozen times.
pytestmark = pytest.mark.crash

# Large scales and batches of one image make an image slow enough for a kill to hit it.
_SLOW = ("--shard-size", 6, "--batch-size", 1, "--scales", "1,4,8", "--device", "cpu")
_NAMES = ["cams-00000-of-00002.h5", "cams-00001-of-00002.h5"]


def _command(index: Path, net: Path, output: str = "cams", jobs: int = 1) -> tuple[object, ...]:
    return ("cams", "cnn", index, "--net", net, "-o", output, *_SLOW, "-j", jobs)


@pytest.fixture(scope="module")
def undisturbed(tiny_index: Path, tiny_net: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the bytes of the shards of an undisturbed run, by name."""
    # As deep as the folders of the tests, because a shard contains the relative path of its index.
    folder = tmp_path_factory.mktemp("undisturbed")
    done = CommandLine(folder)(*_command(tiny_index, tiny_net))
    assert (done.code, done.out.split()) == (0, [f"cams/{name}" for name in _NAMES]), done.err
    return _read_shards(folder / "cams")


def _read_shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".jsonl"}


def _list_sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.h5*")} if folder.exists() else {}


def _watch_progress(folder: Path) -> Callable[[], bool]:
    """Return a function that checks whether an image has been added since (the head of a journal has 700 bytes)."""
    before = sum(_list_sizes(folder).values())
    return lambda: sum(_list_sizes(folder).values()) > max(before + 500, 1500)


def test_resumes_after_five_kills(tiny_index: Path, tiny_net: Path, wsss: CommandLine,
                                                              undisturbed: dict[str, bytes]) -> None:
    random_delays, num_kills, cams = random.Random(0), 0, wsss.cwd / "cams"
    command = _command(tiny_index, tiny_net)
    for attempt in range(20):
        if num_kills == 5:
            break
        process, has_progress = wsss.start(*command), _watch_progress(cams)
        if attempt % 5:  # otherwise kill it also before the first image, while it starts
            wait_until(has_progress, process)
        time.sleep(random_delays.uniform(0, 0.25 if attempt % 5 else 1.5))
        process.kill()
        _, err = process.communicate()
        num_kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            assert _read_shards(cams) == undisturbed
            shutil.rmtree(cams)
        else:
            assert process.returncode == -signal.SIGKILL, err
    assert num_kills == 5
    done = wsss(*command)
    assert (done.code, done.out.split()) == (0, [f"cams/{name}" for name in _NAMES]), done.err
    assert _read_shards(cams) == undisturbed


def _list_children(process: subprocess.Popen) -> list[int]:
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process.pid and fields[0] != "Z":
            children.append(int(path.parent.name))
    return children


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_workers_die_with_their_parent_and_the_command_resumes(
        tiny_index: Path, tiny_net: Path, wsss: CommandLine, undisturbed: dict[str, bytes]) -> None:
    command, cams = _command(tiny_index, tiny_net, jobs=2), wsss.cwd / "cams"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        process = wsss.start(*command)
        wait_until(_watch_progress(cams), process)
        workers = _list_children(process)
        assert len(workers) >= 2
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, err
        wait_until(lambda workers=workers: not any(map(_is_running, workers)))
    done = wsss(*command)
    assert (done.code, sorted(done.out.split())) == (0, [f"cams/{name}" for name in _NAMES]), done.err
    assert _read_shards(cams) == undisturbed


def test_a_signal_exits_with_75_and_the_command_resumes(tiny_index: Path, tiny_net: Path, wsss: CommandLine,
                                                 undisturbed: dict[str, bytes]) -> None:
    command, cams = _command(tiny_index, tiny_net), wsss.cwd / "cams"
    sizes = [0]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        process = wsss.start(*command)
        wait_until(_watch_progress(cams), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 75, err
        assert "Run the same command again" in err.splitlines()[-1] and "Traceback" not in err
        assert all(line.startswith("cams/") for line in out.splitlines())
        sizes.append(sum(_list_sizes(cams).values()))
    assert sizes == sorted(set(sizes))  # every run made progress
    done = wsss(*command)
    assert (done.code, _read_shards(cams)) == (0, undisturbed), done.err


def test_a_second_command_with_the_same_output_exits_with_75(tiny_index: Path, tiny_net: Path, wsss: CommandLine,
                                   undisturbed: dict[str, bytes]) -> None:
    command, cams = _command(tiny_index, tiny_net), wsss.cwd / "cams"
    first = wsss.start(*command)
    wait_until(lambda: bool(list(cams.glob("*.part"))), first)
    os.kill(first.pid, signal.SIGSTOP)
    second = wsss(*command)
    os.kill(first.pid, signal.SIGCONT)
    assert second.code == 75 and "another process is writing it" in second.err
    assert len(list_messages(second)) == 1
    out, err = first.communicate(timeout=PATIENCE)
    assert (first.returncode, len(out.splitlines())) == (0, 2), err
    assert _read_shards(cams) == undisturbed


def test_a_full_disk_exits_with_74_and_the_command_resumes(tiny_index: Path, tiny_net: Path, wsss: CommandLine,
                                                        undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """A file size limit, which the journal of a part exceeds, simulates the full disk."""
    limit = len(next(iter(undisturbed.values()))) * 2 // 3 // 1024  # blocks of 1024 bytes
    words = subprocess.list2cmdline(wsss._words(_command(tiny_index, tiny_net)))
    done = subprocess.run(["bash", "-c", f"ulimit -f {limit}; exec {words}"], cwd=wsss.cwd, text=True,
                          env=wsss._environment(None), capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 74, done.stderr
    assert "can't be written (File too large). Free some space and run the same command again" in done.stderr
    assert [path.name for path in (wsss.cwd / "cams").glob("*.h5*")] == [f"{_NAMES[0]}.part"]
    again = wsss(*_command(tiny_index, tiny_net))
    assert (again.code, _read_shards(wsss.cwd / "cams")) == (0, undisturbed), again.err
