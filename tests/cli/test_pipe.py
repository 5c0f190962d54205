"""Commands in a pipe: each processes the first shard while the previous one makes the next."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from conftest import CommandLine
from waiting import PATIENCE, wait_until

_PARTS = 4


def _cams_command(index: Path, net: Path) -> tuple[object, ...]:
    return ("cams", "cnn", index, "--net", net, "-o", "cams", "--shard-size", 3, "--scales", "1,4", "--device", "cpu",
            "-j", 1)


@pytest.fixture(scope="module")
def finished(tiny_index: Path, tiny_net: Path, tmp_path_factory: pytest.TempPathFactory) -> CommandLine:
    """Return a command line in a folder with a whole run of cams."""
    line = CommandLine(tmp_path_factory.mktemp("finished"))
    assert line(*_cams_command(tiny_index, tiny_net)).code == 0
    return line


def _list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.h5")) if folder.exists() else []


@pytest.mark.skipif(importlib.util.find_spec("pydensecrf") is None, reason="refine crf needs pydensecrf")
def test_three_commands_of_a_pipe_run_at_once(tiny_index: Path, tiny_net: Path, finished: CommandLine,
                                            wsss: CommandLine) -> None:
    """The first command is paused after its first shard; the last command finishes its first shard meanwhile."""
    pipes = {"stdout": subprocess.PIPE}
    cams = wsss.start(*_cams_command(tiny_index, tiny_net), **pipes)
    crf = wsss.start("refine", "crf", "-", "-o", "crf", "-j", 2, stdin=cams.stdout, **pipes)
    pseudo = wsss.start("pseudo", "-", "-o", "masks", "-j", 2, stdin=crf.stdout, **pipes)
    assert wait_until((wsss.cwd / "cams" / f"cams-00001-of-0000{_PARTS}.h5.part").exists, cams)
    os.kill(cams.pid, signal.SIGSTOP)
    assert wait_until((wsss.cwd / "masks" / f"masks-00000-of-0000{_PARTS}.h5").exists, pseudo)
    assert len(_list_names(wsss.cwd / "cams")) < _PARTS
    assert cams.poll() is crf.poll() is pseudo.poll() is None
    os.kill(cams.pid, signal.SIGCONT)
    cams.stdout.close()
    crf.stdout.close()
    out, err = pseudo.communicate(timeout=PATIENCE)
    assert (pseudo.returncode, crf.wait(PATIENCE), cams.wait(PATIENCE)) == (0, 0, 0), err
    assert out.splitlines() == [f"masks/masks-0000{part}-of-0000{_PARTS}.h5" for part in range(_PARTS)]
    # Run one after the other, the commands make the same shards.
    assert finished("refine", "crf", "cams", "-o", "crf", "-j", 1).code == 0
    assert finished("pseudo", "crf", "-o", "masks", "-j", 1).code == 0
    for run in ("cams", "crf", "masks"):
        assert len(_list_names(wsss.cwd / run)) == _PARTS
        for name in _list_names(wsss.cwd / run):
            assert (wsss.cwd / run / name).read_bytes() == (finished.cwd / run / name).read_bytes(), name


def test_reads_paths_from_standard_input_by_default(finished: CommandLine) -> None:
    words = subprocess.list2cmdline(finished._words(("pseudo", "-o", "shell", "--background", "constant:0.4", "-q")))
    done = subprocess.run(["bash", "-c", f"set -o pipefail; ls cams/*.h5 | {words} | cat"], cwd=finished.cwd, text=True,
                          env=finished._environment(None), capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [f"shell/{name}" for name in _list_names(finished.cwd / "shell")]
    assert len(done.stdout.splitlines()) == _PARTS


def test_exits_with_141_and_keeps_its_work_if_the_reader_exits(tiny_index: Path, tiny_net: Path,
                                                               wsss: CommandLine) -> None:
    process = wsss.start(*_cams_command(tiny_index, tiny_net))
    assert process.stdout.readline() == f"cams/cams-00000-of-0000{_PARTS}.h5\n"
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == "cams: 12 images\n"
    # It stopped without a reader, and its finished work is kept.
    assert 1 < len(_list_names(wsss.cwd / "cams")) < _PARTS
    again = wsss(*_cams_command(tiny_index, tiny_net))
    assert (again.code, len(again.out.splitlines())) == (0, _PARTS), again.err


def test_reads_paths_separated_by_nul(finished: CommandLine) -> None:
    odd = finished.cwd / "line\nbreak"
    shutil.copytree(finished.cwd / "cams", odd)
    paths = "".join(f"{odd.name}/{name}\0" for name in _list_names(odd))
    done = finished("pseudo", "-0", "-", "-o", "nul", input=paths)
    assert done.code == 0, done.err
    assert sorted(done.out.splitlines()) == [f"nul/{name}" for name in _list_names(finished.cwd / "nul")]
    assert len(_list_names(finished.cwd / "nul")) == _PARTS
    broken = finished("pseudo", "-", "-o", "lines", input=paths)
    assert broken.code == 66 and len(broken.err.splitlines()) == 1


def test_reports_parts_missing_from_the_stream(finished: CommandLine) -> None:
    names = _list_names(finished.cwd / "cams")
    done = finished("pseudo", "-", "-o", "holes", input=f"cams/{names[2]}\r\n\ncams/{names[0]}\n")
    assert done.code == 66 and "lacks part 1, 3" in done.err
    assert sorted(done.out.splitlines()) == [f"holes/masks-0000{part}-of-0000{_PARTS}.h5" for part in (0, 2)]
    empty = finished("pseudo", "-", "-o", "empty", input="")
    assert empty.code == 66 and empty.out == "" and not (finished.cwd / "empty").exists()
