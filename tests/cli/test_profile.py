"""`--profile FILE`: what every shard and every command spent its time on, as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conftest import CommandLine

_PHASES_OF_SHARD = {"open", "decode", "wait_images", "compute", "journal", "write"}


def _read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("jobs", [1, 2])
def test_commands_share_a_profile(tiny_index: Path, tiny_net: Path, wsss: CommandLine, jobs: int) -> None:
    profile = wsss.cwd / "profile.jsonl"
    for command in (("cams", "cnn", tiny_index, "--net", tiny_net, "-o", "cams", "--shard-size", 6, "--scales", "1"),
                    ("pseudo", "cams", "-o", "masks")):
        done = wsss(*command, "-j", jobs, "--profile", profile)
        assert done.code == 0, done.err
    lines = _read_lines(profile)
    for stage in ("cams", "pseudo"):
        of_stage = [line for line in lines if line["stage"] == stage]
        shards = [line for line in of_stage if "part" in line]
        assert sorted(line["part"] for line in shards) == sorted(
            path.name for path in (wsss.cwd / {"cams": "cams", "pseudo": "masks"}[stage]).glob("*.h5"))
        for line in shards:
            assert set(line["phases"]) == _PHASES_OF_SHARD
            in_turn = sum(seconds for phase, seconds in line["phases"].items() if phase != "decode")
            assert in_turn <= line["seconds"] + 0.001 * len(_PHASES_OF_SHARD)
        assert of_stage[-1]["images"] == sum(line["images"] for line in shards)
        assert of_stage[-1]["shards"] == len(shards)
        prepared = [line for line in of_stage if "prepare" in line["phases"]]
        assert {line["process"] for line in prepared} >= {line["process"] for line in shards}


def test_profile_changes_no_bytes(tiny_index: Path, tiny_net: Path, wsss: CommandLine) -> None:
    command = ("cams", "cnn", tiny_index, "--net", tiny_net, "--scales", "1", "-j", 1)
    assert wsss(*command, "-o", "plain.h5").code == 0
    assert wsss(*command, "-o", "profiled.h5", "--profile", "profile.jsonl").code == 0
    assert (wsss.cwd / "plain.h5").read_bytes() == (wsss.cwd / "profiled.h5").read_bytes()
    done = wsss(*command, "-o", "plain.h5", "--profile", "again.jsonl")
    assert done.code == 0 and "up to date" in done.err
    [line] = _read_lines(wsss.cwd / "again.jsonl")
    assert line["shards"] == 0
