"""Standard streams that are closed or full, file names that are not UTF-8, and signals to reading commands."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cli.runner import SMALL, check_error, run, run_ok
from conftest import CommandLine, Result
from stages.shards import Shard
from waiting import PATIENCE


@pytest.fixture(scope="module")
def cams(tiny_index: Path, tiny_net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of CAMs in two parts."""
    folder = tmp_path_factory.mktemp("streams") / "cams"
    run_ok("cams", "cnn", tiny_index, "--net", tiny_net, "--shard-size", "6", "-o", folder, *SMALL)
    return folder


def run_in_shell(line: CommandLine, redirection: str, *args: object) -> Result:
    """Run `wsss ARGS` in a shell that redirects its streams."""
    words = subprocess.list2cmdline(line._words(args))
    done = subprocess.run(["bash", "-c", f"{words} {redirection}"], cwd=line.cwd, env=line._environment(None),
                          capture_output=True, text=True, check=False, timeout=PATIENCE)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("redirection", ["2>&-", "<&- >&- 2>&-"])
def test_works_with_closed_streams(wsss: CommandLine, cams: Path, redirection: str) -> None:
    done = run_in_shell(wsss, redirection, "pseudo", cams, "-o", "masks", "-j", 2)
    assert (done.code, done.err) == (0, "")
    assert run_ok("check", wsss.cwd / "masks") == [f"{wsss.cwd}/masks/masks-0000{part}-of-00002.h5\tgood"
                                                 for part in (0, 1)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [("--version",), ("--help",), ("pseudo", "--help"), ("info", "CAMS")])
def test_a_full_standard_output_is_reported_in_one_line(wsss: CommandLine, cams: Path, args: tuple[str, ...]) -> None:
    done = run_in_shell(wsss, ">/dev/full", *(cams if arg == "CAMS" else arg for arg in args))
    assert done.code == 74 and "No space left" in done.err and len(done.err.splitlines()) == 1, done.err


def test_works_with_a_folder_whose_name_is_not_utf_8(wsss: CommandLine, cams: Path) -> None:
    name = os.fsdecode(b"m\xff")
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    shutil.copytree(cams, wsss.cwd / name)
    done = subprocess.run(wsss._words(("pseudo", name, "-o", f"{name}-masks", "-j", "1")), cwd=wsss.cwd,
                          env=wsss._environment(strict), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1].endswith(b", wrote 2 shards to m\\udcff-masks")
    assert done.stdout == b"".join(b"m\xff-masks/masks-0000%d-of-00002.h5\n" % part for part in (0, 1))
    again = subprocess.run(wsss._words(("check", "--repair", f"{name}-masks")), cwd=wsss.cwd, input=b"",
                           env=wsss._environment(strict), capture_output=True, check=False)
    assert (again.returncode, again.stdout.count(b"\tgood\n")) == (0, 2), again.stderr


@pytest.mark.parametrize("command", ["check", "info"])
def test_a_signal_stops_commands_that_only_read(cams: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    ids = Shard.ids.func

    def read_ids_after_signal(shard: Shard) -> tuple[str, ...]:
        os.kill(os.getpid(), signal.SIGTERM)
        return ids(shard)

    monkeypatch.setattr(Shard, "ids", property(read_ids_after_signal))
    done = run(command, cams)
    check_error(done, 75, "stopped", "Run the same command again")
    assert done.out == ""
