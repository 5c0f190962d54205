"""`wsss train-cls` from the command line: signals, kill -9, torchrun, other settings."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import CommandLine
from waiting import PATIENCE, wait_until

# Run by make test-crash: each test starts a training up to a dozen times.
pytestmark = pytest.mark.crash

EPOCHS = 24
_ARGS = ("--net", "wsss:tiny", "--crop-size", "32", "--long-side", "32,48", "--batch-size", "4", "--threads", "1",
         "--device", "cpu", "--epochs", EPOCHS)


@pytest.fixture(scope="module")
def uninterrupted_net(tiny_index: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the network of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    done = CommandLine(folder)("train-cls", "cam", tiny_index, "-o", "cam.safetensors", *_ARGS)
    assert (done.code, done.out) == (0, "cam.safetensors\n"), done.err
    return (folder / "cam.safetensors").read_bytes()


def _count_log_lines(folder: Path, name: str = "cam") -> int:
    log = folder / f"{name}.log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def _wait_for(process: subprocess.Popen, condition: Callable[[], bool]) -> None:
    """Wait until `condition` is true; fail when the process ends before."""
    assert wait_until(condition, process), process.communicate()


def test_resumes_to_the_same_network_after_signals_and_kill(tiny_index: Path, uninterrupted_net: bytes,
                                                                 wsss: CommandLine) -> None:
    command = ("train-cls", "cam", tiny_index, "-o", "cam.safetensors", *_ARGS)
    for number, code in ((signal.SIGTERM, 75), (signal.SIGKILL, -9), (signal.SIGUSR2, 75)):
        process = wsss.start(*command)
        before = _count_log_lines(wsss.cwd)
        _wait_for(process, lambda before=before: _count_log_lines(wsss.cwd) >= before + 3)
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (code, ""), err
        assert (wsss.cwd / "cam.safetensors.part").exists() and not (wsss.cwd / "cam.safetensors").exists()
        if code == 75:
            assert "Run the same command again to resume" in err.splitlines()[-1] and "Traceback" not in err
    other = wsss(*command, "--lr", "0.5")
    assert other.code == 73 and "lr: 0.03 -> 0.5" in other.err
    done = wsss(*command)
    assert (done.code, done.out) == (0, "cam.safetensors\n")
    assert "Resuming after step" in done.err
    assert (wsss.cwd / "cam.safetensors").read_bytes() == uninterrupted_net
    left = sorted(path.name for path in wsss.cwd.iterdir())
    assert left == ["cam.log.jsonl", "cam.safetensors"]
    again = wsss(*command)
    assert (again.code, again.out) == (0, "cam.safetensors\n") and "up to date" in again.err


def start_torchrun(wsss: CommandLine, *args: object) -> subprocess.Popen:
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "wsss_cli",
             *map(str, args)]
    process = subprocess.Popen(words, cwd=wsss.cwd, env=wsss._environment(None), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wsss.started.append(process)
    return process


def test_two_processes_train_and_resume_one_network(tiny_index: Path, uninterrupted_net: bytes,
                                                    wsss: CommandLine) -> None:
    command = ("train-cls", "cam", tiny_index, *_ARGS, "--batch-size", "2")
    events = ("--tensorboard", "events") if find_spec("tensorboard") else ()
    first = start_torchrun(wsss, *command, *events, "-o", "two.safetensors")
    out, err = first.communicate(timeout=PATIENCE)
    assert first.returncode == 0, err
    assert out.splitlines() == ["two.safetensors"]
    assert len(list(wsss.cwd.glob("events/*"))) == bool(events), "only the first process writes events"
    two = (wsss.cwd / "two.safetensors").read_bytes()
    assert two != uninterrupted_net
    cut = start_torchrun(wsss, *command, "-o", "cut.safetensors")
    _wait_for(cut, lambda: _count_log_lines(wsss.cwd, "cut") >= 3)
    cut.send_signal(signal.SIGTERM)
    cut.communicate(timeout=PATIENCE)
    assert cut.returncode != 0 and (wsss.cwd / "cut.safetensors.part").exists()
    alone = wsss(*command, "-o", "cut.safetensors")
    assert alone.code == 73 and "processes: 2 -> 1" in alone.err
    rest = start_torchrun(wsss, *command, "-o", "cut.safetensors")
    out, err = rest.communicate(timeout=PATIENCE)
    assert (rest.returncode, out) == (0, "cut.safetensors\n"), err
    assert "Resuming after step" in err
    assert (wsss.cwd / "cut.safetensors").read_bytes() == two
