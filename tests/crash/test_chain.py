"""A chain of stages, each interrupted repeatedly at random; and journals damaged in ways that no kill can cause."""

from __future__ import annotations

import errno
import random

import pytest

from crash.commands import Outcome, Server
from crash.invariants import UNFINISHED, RunUndisturbed, UndisturbedRun, check_same_files
from crash.scenarios import COMMANDS, NET, SERIAL, SERIAL_CPU

_INDEX = "../inputs/train.h5"
CHAIN = (
    ("train-cls", "cam", _INDEX, *NET, "-o", "cam.safetensors"),
    ("cams", "cnn", _INDEX, "--net", "cam.safetensors", "--scales", "1", "--batch-size", "2", "--shard-size", "3",
     *SERIAL_CPU, "-o", "cams"),
    ("refine", "pamr", "cams", "--iterations", "1", "--device", "cpu", *SERIAL, "-o", "refined"),
    ("pseudo", "refined", *SERIAL, "-o", "masks"),
    ("train-seg", _INDEX, "--masks", "masks", *NET, "-o", "seg.safetensors"),
    ("segment", "net", _INDEX, "--net", "seg.safetensors", "--scales", "1", *SERIAL_CPU, "-o", "segmented"),
    ("eval", "segmented", "-o", "eval.json"),
)


@pytest.fixture(scope="module")
def undisturbed_chain(server: Server) -> UndisturbedRun:
    """Return the files that the chain writes without faults."""
    server.clear_work()
    outcomes = [server.run_ok(*args) for args in CHAIN]
    return UndisturbedRun(COMMANDS["cams-cnn"], outcomes[-1], server.read_files())


def run_until_done(server: Server, args: tuple[str, ...], draws: random.Random) -> list[Outcome]:
    """Run a command until it succeeds, with up to six kills, full disks and failing calls."""
    runs = []
    for _ in range(6):
        fault = draws.choice(("kill", "kill", "time", "fail", "full"))
        if fault == "time":
            runs.append(server.run(args, seconds=draws.uniform(0.05, 0.5)))
        else:
            runs.append(server.run(args, fault, draws.randint(1, 24), errno.ENOSPC))
        assert runs[-1].code in (0, 74, -9, -14), runs[-1].err
        if runs[-1].code == 0:
            return runs
    runs.append(server.run_ok(*args))
    return runs


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.crash) for seed in range(8)])
def test_chain_survives_random_interruptions(server: Server, undisturbed_chain: UndisturbedRun, seed: int) -> None:
    draws, num_interruptions = random.Random(seed), 0
    server.clear_work()
    for args in CHAIN:
        runs = run_until_done(server, args, draws)
        num_interruptions += len(runs) - 1
        batches = [batch for run in runs for batch in run.computed]
        computed = [item for batch in batches for item in batch]
        # An interruption costs a batch; in a training also the step whose checkpoint was not yet written.
        lost = max(2, *map(len, batches)) if batches else 0
        assert len(computed) <= len(set(computed)) + lost * (len(runs) - 1), args
    assert num_interruptions, "nothing was interrupted"
    check_same_files(server, undisturbed_chain)


@pytest.mark.parametrize(("name", "step"), [("pseudo", 499), pytest.param("pseudo", 41, marks=pytest.mark.crash),
                                            pytest.param("cams-cnn", 61, marks=pytest.mark.crash)])
def test_resumes_from_a_damaged_journal(server: Server, undisturbed: RunUndisturbed, name: str,
                                        step: int) -> None:
    expected = undisturbed(name)
    server.clear_work()
    call_number = next(call["number"] for call in expected.outcome.calls if call["path"].endswith(".tmp"))
    server.run(expected.command.args, "kill", call_number)
    (journal,) = [path for path in server.read_files() if path.endswith(".part")]
    data = server.read_files()[journal]
    for position in range(0, len(data), step):
        for damaged in (data[:position],
                        data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1:]):
            server.clear_work()
            (server.work / journal).parent.mkdir()
            (server.work / journal).write_bytes(damaged)
            done = server.run(expected.command.args)
            assert (done.code, done.out) == (0, expected.outcome.out), (position, done.err)
            check_same_files(server, expected)


@pytest.mark.parametrize("name", ["eval", "cams-cnn"])
def test_killed_command_leaves_only_unfinished_files(server: Server, undisturbed: RunUndisturbed, name: str) -> None:
    expected = undisturbed(name)
    server.clear_work()
    call_number = next(call["number"] for call in expected.outcome.calls if call["call"] == "replace")
    server.run(expected.command.args, "kill", call_number)
    assert all(path.endswith(UNFINISHED) for path in server.read_files()), server.read_files().keys()
