"""Work that was begun or finished with other settings or inputs is never taken for what is wanted now."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from cli.runner import refused
from crash.commands import Ended, Server
from crash.promises import Whole, same_files
from crash.scenarios import COMMANDS

Of = Callable[[str], Whole]
everywhere = [pytest.param(name, marks=pytest.mark.crash)
              for name, command in COMMANDS.items() if command.other and name != "pseudo"]


def _is_refused(done: Ended, named: str) -> None:
    refused(done, 73, named, "give those settings")


def _work(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files without the locks: one that a killed training left goes with the next that holds it."""
    return {name: data for name, data in files.items() if not name.endswith(".lock")}


def _key(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


@pytest.mark.parametrize("name", ["pseudo", *everywhere])
def test_other_settings_are_refused_by_name_whether_it_was_finished_or_not(server: Server, whole: Of,
                                                                           name: str) -> None:
    one = whole(name)
    other = (*one.command.args, *one.command.other)
    kept = [call for call in one.ended.calls if call["call"] in ("write", "replace")]
    server.fresh()
    if one.command.kind != "files":
        # Into the last write: a shard's journal then has images, a net's `.part` the state after the first pass.
        last = kept[-2 if one.command.kind == "net" else -4]
        assert server.run(one.command.args, "kill", last["number"]).code == -9
        before = _work(server.files())
        _is_refused(server.run(other), _key(one.command.other[0]))
        assert _work(server.files()) == before
    server.good(*one.command.args)
    same_files(server, one)
    done = server.run(other)
    assert done.code == 73 and done.out == "", done.err
    assert _key(one.command.other[0]) in done.err.splitlines()[-1].replace("-", "_"), done.err
    same_files(server, one)


# How an input is made anew, with one setting changed.
ANEW = {"cams": (*COMMANDS["cams-cnn"].args[:-1], "../inputs/cams", "--scales", "2"),
        "masks": (*COMMANDS["pseudo"].args[:-1], "../inputs/masks", "--background", "constant:0.5"),
        "features": (*COMMANDS["features"].args[:-1], "../inputs/features", "--size", "48"),
        "cam.safetensors": (*COMMANDS["train-cls"].args[:-1], "../inputs/cam.safetensors", "--seed", "1"),
        "train.h5": ("index", "table", "../inputs/pictures/labels.csv", "--images", "../inputs/pictures/JPEGImages",
                     "-o", "../inputs/train.h5")}
seldom = pytest.mark.crash


@pytest.mark.parametrize(("name", "file", "key"), [
    ("pseudo", "cams", "cams: "), pytest.param("train-seg", "masks", "masks: ", marks=seldom),
    pytest.param("cams-cnn", "cam.safetensors", "net: ", marks=seldom),
    pytest.param("cams-cnn", "train.h5", "index: ", marks=seldom),
    pytest.param("segment-naclip", "seeded.pt", "clip_weights: ", marks=seldom),
    pytest.param("train-aff-psa", "cams", "cams: ", marks=seldom),
    pytest.param("train-text", "seeded.pt", "clip_weights: ", marks=seldom),
    pytest.param("cluster", "features", "features: ", marks=seldom)])
def test_another_input_under_the_same_name_is_refused_by_name(server: Server, whole: Of, name: str, file: str,
                                                              key: str) -> None:
    one = whole(name)
    server.fresh()
    assert server.run(one.command.args, "kill", len(one.ended.calls) * 2 // 3).code == -9
    kept = [server.files(), one.files]
    place, aside = server.place / "inputs" / file, server.place / "aside"
    place.rename(aside)
    try:
        if file in ANEW:
            server.good(*ANEW[file])
        else:
            place.write_bytes((server.place / "inputs" / "other" / file).read_bytes())
        for before in kept:
            server.fresh()
            for path, data in before.items():
                (server.work / path).parent.mkdir(parents=True, exist_ok=True)
                (server.work / path).write_bytes(data)
            done = server.run(one.command.args)
            assert (done.code, done.out) == (73, ""), done.err
            assert key in done.err.splitlines()[-1], done.err
            assert _work(server.files()) == _work(before)
    finally:
        for left in (place, place.with_suffix(".log.jsonl")):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        aside.rename(place)
