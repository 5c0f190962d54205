"""`-n` of every command that writes: it tells what would be done and what is up to date, and touches nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from cli.every_command import COMMANDS, SEEDED, commands_of
from cli.runner import good, run
from conftest import Result
from wsss_cli.app import app

READERS = {"prompts", "info"}  # and have no -n
WRITERS_TRIED_ELSEWHERE = {"check"}  # with --repair, in test_repair.py: it ends with 65
# One of each way in which a command finds that its output is up to date. `eval` and `show` never do.
MADE = ("index voc", "index folder", "index split", "cooc", "features", "cluster finch", "train-cls cam", "cams cnn",
        "cams clip-es", "segment net", "merge", "export png", "export voc", "setup nltk")


def state(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Return what any change to a folder would change: times, sizes and numbers of files and folders."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        told = path.stat()
        found[path] = (told.st_mtime_ns, told.st_size if path.is_file() else 0, told.st_ino)
    return found


def dry(name: str, words: str, folder: Path) -> Result:
    """Run a command with -n, and check that it changed nothing."""
    before = state(folder)
    done = run(*name.split(), *words.split(), "-n", cwd=folder)
    assert done.code == 0, done.err
    changed = [str(path) for path, told in state(folder).items() if before.get(path) != told]
    assert state(folder) == before, changed
    return done


def test_every_command_that_writes_has_it_and_is_tried_here():
    commands = commands_of(typer.main.get_command(app))
    assert {name for name, one in commands.items() if any("-n" in param.opts for param in one.params)} == {
        *COMMANDS, *WRITERS_TRIED_ELSEWHERE}
    assert set(commands) - set(COMMANDS) - WRITERS_TRIED_ELSEWHERE == READERS
    assert not [name for name in READERS if any("-o" in param.opts for param in commands[name].params)]


@pytest.mark.parametrize("name", COMMANDS)
def test_what_would_be_done_is_told_and_not_done(every_input, name):
    if name in ("train-aff irn", "train-aff psa", "refine crf"):
        pytest.importorskip("pydensecrf")
    done = dry(name, COMMANDS[name].replace("OUT", "new"), every_input)
    assert "would " in done.err
    assert done.out == ""


@pytest.mark.parametrize("name", MADE)
def test_what_is_up_to_date_is_told_and_not_touched(every_input, name):
    words = COMMANDS[name].replace("OUT", f"made-{name.replace(' ', '-')}")
    made = good(*name.split(), *words.split(), "-q", cwd=every_input)
    done = dry(name, words, every_input)
    assert "up to date" in done.err and "would " not in done.err
    assert done.out.splitlines() == ([] if name == "cooc" else made)


def test_of_a_run_that_is_there_in_part_the_rest_is_told(every_input):
    for name in ("cams cnn", "segment net"):
        words = COMMANDS[name].replace("OUT", f"part-{name.replace(' ', '-')}")
        more = "" if "--shard-size" in words else " --shard-size 5"
        good(*name.split(), *words.split(), *more.split(), "--task", "1/3", "-q", cwd=every_input)
        done = dry(name, words + more, every_input)
        assert "-00001-of-00003.h5 is up to date" in done.err
        assert [f"would make part-{name.replace(' ', '-')}" in line for line in done.err.splitlines()].count(True) >= 2
        assert len(done.out.splitlines()) == 1


def test_image_files(every_input):
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(every_input / "photo.png")
    for name, words in (("segment net", "photo.png --net seg.safetensors --device cpu -o pictures"),
                        ("cams clip-es", f"photo.png {SEEDED} --names voc --tags all -o maps")):
        assert "would " in dry(name, words, every_input).err
        made = good(*name.split(), *words.split(), "-q", cwd=every_input)
        done = dry(name, words, every_input)
        assert done.out.splitlines() == made
        assert "up to date" in done.err


def test_another_output_in_the_way_is_told_as_it_would_be(every_input):
    for name in ("cams cnn", "index split", "cooc", "export png"):
        output = f"other-{name.replace(' ', '-')}"
        words = COMMANDS[name].replace("OUT", output)
        good(*name.split(), *words.split(), "-q", cwd=every_input)
        changed = {"cams cnn": "--no-flip", "index split": "--multi", "cooc": "--diagonal zero", "export png": ""}[name]
        words = words.replace("--single", "") + " " + changed
        if name == "export png":
            next((every_input / output).glob("*.png")).write_bytes(b"other")
        before = state(every_input)
        done = run(*name.split(), *words.split(), "-n", cwd=every_input)
        assert done.code == 73, (name, done.err)
        assert state(every_input) == before
