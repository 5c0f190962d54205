"""Stages one behind the other, each ended again and again at random; and the journal as a kill could never leave it."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from crash.commands import Ended, Server
from crash.promises import UNFINISHED, Whole, same_files
from crash.scenarios import ALONE, COMMANDS, MAPPED, NET

Of = Callable[[str], Whole]
_INDEX = "../inputs/train.h5"
CHAIN = (
    ("train-cls", "cam", _INDEX, *NET, "-o", "cam.safetensors"),
    ("cams", "cnn", _INDEX, "--net", "cam.safetensors", "--scales", "1", "--batch-size", "2", "--shard-size", "3",
     *ALONE, "-o", "cams"),
    ("refine", "pamr", "cams", "--iterations", "1", "--device", "cpu", *MAPPED, "-o", "refined"),
    ("pseudo", "refined", *MAPPED, "-o", "masks"),
    ("train-seg", _INDEX, "--masks", "masks", *NET, "-o", "seg.safetensors"),
    ("segment", "net", _INDEX, "--net", "seg.safetensors", "--scales", "1", *ALONE, "-o", "segmented"),
    ("eval", "segmented", "-o", "eval.json"),
)


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> Whole:
    """Return what the chain writes when nothing goes wrong."""
    server.fresh()
    ended = [server.good(*args) for args in CHAIN]
    return Whole(COMMANDS["cams-cnn"], ended[-1], server.files())


def _until_it_ends(server: Server, args: tuple[str, ...], draws: random.Random) -> list[Ended]:
    """Run a command to its end, through up to six kills, full disks and failing calls."""
    runs = []
    for _ in range(6):
        how = draws.choice(("kill", "kill", "time", "fail", "full"))
        if how == "time":
            runs.append(server.run(args, seconds=draws.uniform(0.05, 0.5)))
        else:
            runs.append(server.run(args, how, draws.randint(1, 24), errno.ENOSPC))
        assert runs[-1].code in (0, 74, -9, -14), runs[-1].err
        if runs[-1].code == 0:
            return runs
    runs.append(server.good(*args))
    return runs


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.crash) for seed in range(8)])
def test_a_chain_ended_at_random_ends_as_if_it_had_not_been(server: Server, undisturbed: Whole, seed: int) -> None:
    draws, ends = random.Random(seed), 0
    server.fresh()
    for args in CHAIN:
        runs = _until_it_ends(server, args, draws)
        ends += len(runs) - 1
        computed = [item for run in runs for batch in run.computed for item in batch]
        assert len(computed) <= len(set(computed)) + 2 * (len(runs) - 1), args
    assert ends, "nothing was ended"
    same_files(server, undisturbed)


@pytest.mark.parametrize(("name", "every"), [("pseudo", 499), pytest.param("pseudo", 41, marks=pytest.mark.crash),
                                             pytest.param("cams-cnn", 61, marks=pytest.mark.crash)])
def test_cut_anywhere_or_with_any_byte_flipped_a_journal_leads_to_the_same_bytes(server: Server, whole: Of, name: str,
                                                                                 every: int) -> None:
    one = whole(name)
    server.fresh()
    sealed = next(call["number"] for call in one.ended.calls if call["path"].endswith(".tmp"))
    server.run(one.command.args, "kill", sealed)
    (journal,) = [path for path in server.files() if path.endswith(".part")]
    data = server.files()[journal]
    for place in range(0, len(data), every):
        for broken in (data[:place], data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1:]):
            server.fresh()
            (server.work / journal).parent.mkdir()
            (server.work / journal).write_bytes(broken)
            done = server.run(one.command.args)
            assert (done.code, done.out) == (0, one.ended.out), (place, done.err)
            same_files(server, one)


@pytest.mark.parametrize("name", ["eval", "cams-cnn"])
def test_what_is_left_of_a_killed_command_is_known_by_its_ending(server: Server, whole: Of, name: str) -> None:
    one = whole(name)
    server.fresh()
    replaced = next(call["number"] for call in one.ended.calls if call["call"] == "replace")
    server.run(one.command.args, "kill", replaced)
    assert all(path.endswith(UNFINISHED) for path in server.files()), server.files().keys()
