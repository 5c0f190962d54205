"""Finished and unfinished work is never reused if settings or inputs have changed."""

from __future__ import annotations

import shutil

import pytest

from cli.runner import check_error
from crash.commands import Outcome, Server
from crash.invariants import RunUndisturbed, check_same_files
from crash.scenarios import COMMANDS

everywhere = [pytest.param(name, marks=pytest.mark.crash)
              for name, command in COMMANDS.items() if command.changed_option and name != "pseudo"]


def check_rejected(done: Outcome, name: str) -> None:
    check_error(done, 73, name, "settings", "--force")


def remove_locks(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files without locks: that of a killed training is removed by the next run that acquires it."""
    return {name: data for name, data in files.items() if not name.endswith(".lock")}


def option_key(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


@pytest.mark.parametrize("name", ["pseudo", *everywhere])
def test_rejects_changed_settings_of_finished_and_unfinished_work(server: Server, undisturbed: RunUndisturbed,
                                                                  name: str) -> None:
    expected = undisturbed(name)
    changed_args = (*expected.command.args, *expected.command.changed_option)
    work = [call for call in expected.outcome.calls if call["call"] in ("write", "replace")]
    server.clear_work()
    if expected.command.kind != "files":
        # Kill in the last write: a shard's journal then has images, a network's `.part` the state after one epoch.
        last = work[-2 if expected.command.kind == "net" else -4]
        assert server.run(expected.command.args, "kill", last["number"]).code == -9
        before = remove_locks(server.read_files())
        check_rejected(server.run(changed_args), option_key(expected.command.changed_option[0]))
        assert remove_locks(server.read_files()) == before
    server.run_ok(*expected.command.args)
    check_same_files(server, expected)
    done = server.run(changed_args)
    assert done.code == 73 and done.out == "", done.err
    assert option_key(expected.command.changed_option[0]) in done.err.splitlines()[-1].replace("-", "_"), done.err
    check_same_files(server, expected)


# The arguments that make an input again with one setting changed.
REMAKE_ARGS = {"cams": (*COMMANDS["cams-cnn"].args[:-1], "../inputs/cams", "--scales", "2"),
               "masks": (*COMMANDS["pseudo"].args[:-1], "../inputs/masks", "--background", "constant:0.5"),
               "features": (*COMMANDS["features"].args[:-1], "../inputs/features", "--size", "48"),
               "cam.safetensors": (*COMMANDS["train-cls"].args[:-1], "../inputs/cam.safetensors", "--seed", "1"),
               "train.h5": ("index", "table", "../inputs/pictures/labels.csv", "--images",
                            "../inputs/pictures/JPEGImages", "-o", "../inputs/train.h5")}
crash_mark = pytest.mark.crash


@pytest.mark.parametrize(("name", "file", "key"), [
    ("pseudo", "cams", "cams: "), pytest.param("train-seg", "masks", "masks: ", marks=crash_mark),
    pytest.param("cams-cnn", "cam.safetensors", "net: ", marks=crash_mark),
    pytest.param("cams-cnn", "train.h5", "index: ", marks=crash_mark),
    pytest.param("segment-naclip", "seeded.pt", "clip_weights: ", marks=crash_mark),
    pytest.param("train-aff-psa", "cams", "cams: ", marks=crash_mark),
    pytest.param("train-text", "seeded.pt", "clip_weights: ", marks=crash_mark),
    pytest.param("cluster", "features", "features: ", marks=crash_mark)])
def test_rejects_a_changed_input(server: Server, undisturbed: RunUndisturbed, name: str, file: str,
                                 key: str) -> None:
    expected = undisturbed(name)
    server.clear_work()
    assert server.run(expected.command.args, "kill", len(expected.outcome.calls) * 2 // 3).code == -9
    work = [server.read_files(), expected.files]
    path, backup = server.root / "inputs" / file, server.root / "aside"
    path.rename(backup)
    try:
        if file in REMAKE_ARGS:
            server.run_ok(*REMAKE_ARGS[file])
        else:
            path.write_bytes((server.root / "inputs" / "other" / file).read_bytes())
        for before in work:
            server.clear_work()
            for relative_path, data in before.items():
                (server.work / relative_path).parent.mkdir(parents=True, exist_ok=True)
                (server.work / relative_path).write_bytes(data)
            done = server.run(expected.command.args)
            assert (done.code, done.out) == (73, ""), done.err
            assert key in done.err.splitlines()[-1], done.err
            assert remove_locks(server.read_files()) == remove_locks(before)
    finally:
        for created_path in (path, path.with_suffix(".log.jsonl")):
            shutil.rmtree(created_path,
                          ignore_errors=True) if created_path.is_dir() else created_path.unlink(missing_ok=True)
        backup.rename(path)
