"""A fork server, the inputs of the commands, and the files that each command writes without faults."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from crash.commands import Server
from crash.invariants import RunUndisturbed, UndisturbedRun
from crash.scenarios import COMMANDS, create_inputs, train_affinity_nets


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return the server, after creating the inputs of all commands."""
    if sys.platform != "linux":
        pytest.skip("needs Linux: prctl, /proc")
    server = Server(tmp_path_factory.mktemp("crash"))
    try:
        create_inputs(server)
        if find_spec("pydensecrf"):
            train_affinity_nets(server)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def undisturbed(server: Server) -> RunUndisturbed:
    """Return a function that runs a command by name without faults, once, and returns the run."""
    runs: dict[str, UndisturbedRun] = {}

    def run_undisturbed(name: str) -> UndisturbedRun:
        if name not in runs:
            command = COMMANDS[name]
            if command.required_package:
                pytest.importorskip(command.required_package)
            server.clear_work()
            runs[name] = UndisturbedRun(command, server.run_ok(*command.args), server.read_files())
        return runs[name]

    return run_undisturbed
