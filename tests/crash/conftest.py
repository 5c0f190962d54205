"""One fork server, the inputs of the commands, and what each command writes when nothing goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import pytest

from crash.commands import Server
from crash.promises import Whole
from crash.scenarios import COMMANDS, make_affinities, make_inputs


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return the server, with the inputs of all commands made."""
    if sys.platform != "linux":
        pytest.skip("needs Linux: prctl, /proc")
    line = Server(tmp_path_factory.mktemp("crash"))
    try:
        make_inputs(line)
        if find_spec("pydensecrf"):
            make_affinities(line)
        yield line
    finally:
        line.end()


@pytest.fixture(scope="session")
def whole(server: Server) -> Callable[[str], Whole]:
    """Return a function of a command's name: what it writes undisturbed, made once."""
    made: dict[str, Whole] = {}

    def of(name: str) -> Whole:
        if name not in made:
            command = COMMANDS[name]
            if command.needs:
                pytest.importorskip(command.needs)
            server.fresh()
            made[name] = Whole(command, server.good(*command.args), server.files())
        return made[name]

    return of
