"""Standard streams that are closed or full, and names of files that are no UTF-8."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from cli.runner import SMALL, good, refused, run
from conftest import CommandLine, Result
from stages.shards import Shard
from waiting import PATIENCE


@pytest.fixture(scope="module")
def cams(tiny_index: Path, tiny_net: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of maps in two parts."""
    folder = tmp_path_factory.mktemp("streams") / "cams"
    good("cams", "cnn", tiny_index, "--net", tiny_net, "--shard-size", "6", "-o", folder, *SMALL)
    return folder


def shell(line: CommandLine, redirected: str, *args: object) -> Result:
    """Run `wsss ARGS` by a shell that redirects its streams."""
    words = subprocess.list2cmdline(line._words(args))
    done = subprocess.run(["bash", "-c", f"{words} {redirected}"], cwd=line.cwd, env=line._environment(None),
                          capture_output=True, text=True, check=False, timeout=PATIENCE)
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_stops_nothing(wsss: CommandLine, cams: Path, closed: str) -> None:
    done = shell(wsss, closed, "pseudo", cams, "-o", "masks", "-j", 2)
    assert (done.code, done.err) == (0, "")
    assert good("check", wsss.cwd / "masks") == [f"{wsss.cwd}/masks/masks-0000{part}-of-00002.h5\tgood"
                                                 for part in (0, 1)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("args", [("--version",), ("--help",), ("pseudo", "--help"), ("info", "CAMS")])
def test_what_can_not_be_printed_is_told_in_one_line(wsss: CommandLine, cams: Path, args: tuple[str, ...]) -> None:
    done = shell(wsss, ">/dev/full", *(cams if one == "CAMS" else one for one in args))
    assert done.code == 74 and "No space left" in done.err and len(done.err.splitlines()) == 1, done.err


def test_a_folder_whose_name_is_no_utf_8(wsss: CommandLine, cams: Path) -> None:
    name = os.fsdecode(b"m\xff")
    strict = {"PYTHONIOENCODING": "utf-8:strict"}
    shutil.copytree(cams, wsss.cwd / name)
    done = subprocess.run(wsss._words(("pseudo", name, "-o", f"{name}-masks", "-j", "1")), cwd=wsss.cwd,
                          env=wsss._environment(strict), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"".join(b"m\xff-masks/masks-0000%d-of-00002.h5\n" % part for part in (0, 1))
    again = subprocess.run(wsss._words(("check", "--repair", f"{name}-masks")), cwd=wsss.cwd, input=b"",
                           env=wsss._environment(strict), capture_output=True, check=False)
    assert (again.returncode, again.stdout.count(b"\tgood\n")) == (0, 2), again.stderr


@pytest.mark.parametrize("command", ["check", "info"])
def test_a_command_that_only_reads_is_stopped_by_a_signal(cams: Path, monkeypatch: pytest.MonkeyPatch,
                                                         command: str) -> None:
    ids = Shard.ids.func

    def signalled(shard: Shard) -> tuple[str, ...]:
        os.kill(os.getpid(), signal.SIGTERM)
        return ids(shard)

    monkeypatch.setattr(Shard, "ids", property(signalled))
    done = run(command, cams)
    refused(done, 75, "stopped", "run the same command again")
    assert done.out == ""
