"""`wsss cams cnn`, ended at any moment by any means, goes on to the very bytes of an undisturbed run."""

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

from conftest import CommandLine
from waiting import PATIENCE, wait_until

# Run by make test-crash: each test starts a command up to a dozen times.
pytestmark = pytest.mark.crash

# Large scales and batches of one make an image slow enough to be killed in.
_SLOW = ("--shard-size", 6, "--batch-size", 1, "--scales", "1,4,8", "--device", "cpu")
_NAMES = ["cams-00000-of-00002.h5", "cams-00001-of-00002.h5"]


def _command(index: Path, net: Path, output: str = "cams", jobs: int = 1) -> tuple[object, ...]:
    return ("cams", "cnn", index, "--net", net, "-o", output, *_SLOW, "-j", jobs)


@pytest.fixture(scope="module")
def whole(tiny_index: Path, tiny_net: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the shards of an undisturbed run, by name."""
    # As deep as the folders of the tests: a shard holds the relative path of its index.
    folder = tmp_path_factory.mktemp("whole")
    done = CommandLine(folder)(*_command(tiny_index, tiny_net))
    assert (done.code, done.out.split()) == (0, [f"cams/{name}" for name in _NAMES]), done.err
    return _shards(folder / "cams")


def _shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix != ".jsonl"}


def _progress(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.h5*")} if folder.exists() else {}


def _works(folder: Path) -> Callable[[], bool]:
    """Return a question: has an image been added since now? (The head of a journal has about 700 bytes.)"""
    before = sum(_progress(folder).values())
    return lambda: sum(_progress(folder).values()) > max(before + 500, 1500)


def test_killed_at_five_moments_it_ends_as_if_it_had_not_been(tiny_index: Path, tiny_net: Path, wsss: CommandLine,
                                                              whole: dict[str, bytes]) -> None:
    moments, kills, cams = random.Random(0), 0, wsss.cwd / "cams"
    command = _command(tiny_index, tiny_net)
    for attempt in range(20):
        if kills == 5:
            break
        process, works = wsss.start(*command), _works(cams)
        if attempt % 5:  # else also before the first image, while it starts
            wait_until(works, process)
        time.sleep(moments.uniform(0, 0.25 if attempt % 5 else 1.5))
        process.kill()
        _, err = process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            assert _shards(cams) == whole
            shutil.rmtree(cams)
        else:
            assert process.returncode == -signal.SIGKILL, err
    assert kills == 5
    done = wsss(*command)
    assert (done.code, done.out.split()) == (0, [f"cams/{name}" for name in _NAMES]), done.err
    assert _shards(cams) == whole


def _children(process: subprocess.Popen) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = place.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process.pid and fields[0] != "Z":
            found.append(int(place.parent.name))
    return found


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_workers_die_with_their_parent_and_the_rerun_ends_the_same(
        tiny_index: Path, tiny_net: Path, wsss: CommandLine, whole: dict[str, bytes]) -> None:
    command, cams = _command(tiny_index, tiny_net, jobs=2), wsss.cwd / "cams"
    for number, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 75)):
        process = wsss.start(*command)
        wait_until(_works(cams), process)
        workers = _children(process)
        assert len(workers) >= 2
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, err
        wait_until(lambda workers=workers: not any(map(_runs, workers)))
    done = wsss(*command)
    assert (done.code, sorted(done.out.split())) == (0, [f"cams/{name}" for name in _NAMES]), done.err
    assert _shards(cams) == whole


def test_a_signal_ends_with_75_and_loses_nothing(tiny_index: Path, tiny_net: Path, wsss: CommandLine,
                                                 whole: dict[str, bytes]) -> None:
    command, cams = _command(tiny_index, tiny_net), wsss.cwd / "cams"
    sizes = [0]
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        process = wsss.start(*command)
        wait_until(_works(cams), process)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 75, err
        assert "run the same command again" in err.splitlines()[-1] and "Traceback" not in err
        assert all(line.startswith("cams/") for line in out.splitlines())
        sizes.append(sum(_progress(cams).values()))
    assert sizes == sorted(set(sizes))  # every run added something
    done = wsss(*command)
    assert (done.code, _shards(cams)) == (0, whole), done.err


def test_two_at_once_on_one_output(tiny_index: Path, tiny_net: Path, wsss: CommandLine,
                                   whole: dict[str, bytes]) -> None:
    command, cams = _command(tiny_index, tiny_net), wsss.cwd / "cams"
    first = wsss.start(*command)
    wait_until(lambda: bool(list(cams.glob("*.part"))), first)
    os.kill(first.pid, signal.SIGSTOP)
    second = wsss(*command)
    os.kill(first.pid, signal.SIGCONT)
    assert second.code == 75 and "another process is at work on it" in second.err
    assert len(second.err.splitlines()) == 1
    out, err = first.communicate(timeout=PATIENCE)
    assert (first.returncode, len(out.splitlines())) == (0, 2), err
    assert _shards(cams) == whole


def test_a_full_disk_ends_with_74_and_the_rerun_goes_on(tiny_index: Path, tiny_net: Path, wsss: CommandLine,
                                                        whole: dict[str, bytes], tmp_path: Path) -> None:
    """A file size limit stands for the full disk; the journal of a part grows beyond it."""
    limit = len(next(iter(whole.values()))) * 2 // 3 // 1024  # blocks of 1024 bytes
    words = subprocess.list2cmdline(wsss._words(_command(tiny_index, tiny_net)))
    done = subprocess.run(["bash", "-c", f"ulimit -f {limit}; exec {words}"], cwd=wsss.cwd, text=True,
                          env=wsss._environment(None), capture_output=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 74, done.stderr
    assert "can't be written (File too large); make room and run the same command again" in done.stderr
    assert [path.name for path in (wsss.cwd / "cams").glob("*.h5*")] == [f"{_NAMES[0]}.part"]
    again = wsss(*_command(tiny_index, tiny_net))
    assert (again.code, _shards(wsss.cwd / "cams")) == (0, whole), again.err
