"""`--dry-run` of every command that writes reports what would be done or is up to date, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from cli.every_command import COMMANDS, SEEDED, list_commands
from cli.runner import run, run_ok
from conftest import Result
from wsss_cli.app import app

READERS = {"prompts", "explain", "info", "help"}  # which have no --dry-run
WRITERS_TESTED_ELSEWHERE = {"check"}  # with --repair, in test_repair.py, where it exits with 65
# Commands for each way of finding that an output is up to date, which `eval` and `show` never do.
REUSING_COMMANDS = (
    "index voc", "index folder", "index split", "cooc", "features", "cluster finch", "train-cls cam", "cams cnn",
    "cams clip-es", "cams excel", "segment net", "merge", "export png", "export voc", "export coco", "export labelme",
    "setup nltk")


def read_state(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Return the times, sizes and inode numbers of a folder and all its files, which any change would change."""
    state = {}
    for path in (folder, *folder.rglob("*")):
        status = path.stat()
        state[path] = (status.st_mtime_ns, status.st_size if path.is_file() else 0, status.st_ino)
    return state


def run_dry(name: str, words: str, folder: Path) -> Result:
    """Run a command with --dry-run, and check that it changed nothing."""
    before = read_state(folder)
    done = run(*name.split(), *words.split(), "-n", cwd=folder)
    assert done.code == 0, done.err
    changed = [str(path) for path, status in read_state(folder).items() if before.get(path) != status]
    assert read_state(folder) == before, changed
    return done


def test_every_command_that_writes_has_a_dry_run_and_is_tested():
    commands = list_commands(typer.main.get_command(app))
    assert {name for name, command in commands.items() if any("-n" in param.opts for param in command.params)} == {
        *COMMANDS, *WRITERS_TESTED_ELSEWHERE}
    assert set(commands) - set(COMMANDS) - WRITERS_TESTED_ELSEWHERE == READERS
    assert not [name for name in READERS if any("-o" in param.opts for param in commands[name].params)]


@pytest.mark.parametrize("name", COMMANDS)
def test_reports_what_would_be_done_and_changes_nothing(every_input, name):
    done = run_dry(name, COMMANDS[name].replace("OUT", "new"), every_input)
    assert "would " in done.err.lower()
    assert done.out == ""


@pytest.mark.parametrize("name", REUSING_COMMANDS)
def test_reports_what_is_up_to_date_and_changes_nothing(every_input, name):
    words = COMMANDS[name].replace("OUT", f"made-{name.replace(' ', '-')}")
    made = run_ok(*name.split(), *words.split(), "-q", cwd=every_input)
    done = run_dry(name, words, every_input)
    assert "up to date" in done.err and "would " not in done.err.lower()
    assert done.out.splitlines() == ([] if name == "cooc" else made)


def test_reports_the_missing_parts_of_an_unfinished_run(every_input):
    for name in ("cams cnn", "segment net"):
        words = COMMANDS[name].replace("OUT", f"part-{name.replace(' ', '-')}")
        more = "" if "--shard-size" in words else " --shard-size 5"
        run_ok(*name.split(), *words.split(), *more.split(), "--task", "1/3", "-q", cwd=every_input)
        done = run_dry(name, words + more, every_input)
        assert "-00001-of-00003.h5 is up to date" in done.err
        assert [f"Would make part-{name.replace(' ', '-')}" in line for line in done.err.splitlines()].count(True) >= 2
        assert len(done.out.splitlines()) == 1


def test_reports_what_would_be_done_with_image_files(every_input):
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(every_input / "photo.png")
    for name, words in (("segment net", "photo.png --net seg.safetensors --device cpu -o pictures"),
                        ("cams clip-es", f"photo.png {SEEDED} --names voc --tags all -o maps")):
        assert "would " in run_dry(name, words, every_input).err.lower()
        made = run_ok(*name.split(), *words.split(), "-q", cwd=every_input)
        done = run_dry(name, words, every_input)
        assert done.out.splitlines() == made
        assert "up to date" in done.err


def test_reports_an_existing_output_with_different_settings(every_input):
    for name in ("cams cnn", "index split", "cooc", "export png"):
        output = f"other-{name.replace(' ', '-')}"
        words = COMMANDS[name].replace("OUT", output)
        run_ok(*name.split(), *words.split(), "-q", cwd=every_input)
        changed = {"cams cnn": "--no-flip", "index split": "--multi", "cooc": "--diagonal zero", "export png": ""}[name]
        words = words.replace("--single", "") + " " + changed
        if name == "export png":
            next((every_input / output).glob("*.png")).write_bytes(b"other")
        before = read_state(every_input)
        done = run(*name.split(), *words.split(), "-n", cwd=every_input)
        assert done.code == 73, (name, done.err)
        assert read_state(every_input) == before
