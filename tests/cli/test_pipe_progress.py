"""What a terminal shows while commands run: a pipe of three, and an error."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from cli.terminal import Screen, record_shell
from conftest import CommandLine

_SIZE = (100, 12)
_NAMES = ("cams", "refine", "pseudo")


def _build_pipe(wsss: CommandLine, *commands: tuple[object, ...]) -> str:
    return " | ".join(subprocess.list2cmdline(wsss._words(command)) for command in commands)


def _record(wsss: CommandLine, command: str, after_output: Callable[[bytes], None] = lambda data: None,
            ) -> tuple[int, bytes]:
    """Run commands of bash on a terminal."""
    environment = wsss._environment({"TERM": "xterm", "TMPDIR": str(wsss.cwd)})
    return record_shell(f"set -o pipefail; {command}", wsss.cwd, environment, _SIZE, after_output)


def _show(data: bytes) -> Screen:
    screen = Screen(*_SIZE)
    screen.feed(data)
    return screen


def _find_shown(screen: Screen) -> set[str]:
    """Return the names of the commands that have a line."""
    return {name for name in _NAMES if any(line.startswith(f"{name} ") for line in screen.lines)}


def _find_start(data: bytes) -> int:
    """Return the first position at which all commands have a line, -1 if there is none."""
    screen = Screen(*_SIZE)
    for position in range(len(data)):
        screen.feed(data[position:position + 1])
        if len(_find_shown(screen)) == len(_NAMES):
            return position + 1
    return -1


def test_every_command_of_a_pipe_is_always_on_the_terminal(tiny_index: Path, tiny_net: Path,
                                                           wsss: CommandLine) -> None:
    """100 screens, evenly spaced in the recording from the start of the last command to the end of the first one."""
    pipe = _build_pipe(
        wsss, ("cams", "cnn", "-", "--net", tiny_net, "-o", "cams", "--shard-size", 3, "--device", "cpu", "-j", 1),
        ("refine", "pamr", "-", "-o", "refined", "-j", 1), ("pseudo", "-", "-o", "masks", "-j", 1))
    gate, shown = wsss.cwd / "gate", Screen(*_SIZE)
    os.mkfifo(gate)

    def open_gate(data: bytes) -> None:
        """Let the first command begin once all have started, however fast the machine is."""
        shown.feed(data)
        if gate.exists() and len(_find_shown(shown)) == len(_NAMES):
            gate.write_text(f"{tiny_index}\n")
            gate.unlink()

    code, data = _record(wsss, f"cat gate | {pipe}", open_gate)
    assert code == 0, data
    start, end = _find_start(data), re.search(rb"(cams|refine|pseudo): 12 images in", data).start()
    assert end - start > 1000
    screens = [_show(data[:start + (end - start) * sample // 100]) for sample in range(100)]
    for name in _NAMES:
        assert sum(name in _find_shown(screen) for screen in screens) >= 95, name
    last = _show(data)
    shown = [*last.scrolled, *last.lines]
    # All that remains is what was printed: the paths and the summaries.
    paths = [line for line in shown if line.endswith(".h5")]
    assert paths == [f"masks/masks-0000{part}-of-00004.h5" for part in range(4)]
    summaries = [re.sub(r"in .* s( \(.*\))?, ", "in TIME, ", line) for line in shown if line not in paths]
    assert sorted(summaries) == ["cams: 12 images in TIME, wrote 4 shards to cams",
                                 "pseudo: 12 images in TIME, wrote 4 shards to masks",
                                 "refine: 12 images in TIME, wrote 4 shards to refined"]
    assert not list(wsss.cwd.glob("wsss-*/*")), "the state of the terminal is removed"


def test_an_error_is_all_that_remains_on_the_terminal(wsss: CommandLine) -> None:
    code, data = _record(wsss, _build_pipe(wsss, ("pseudo", "missing.h5", "-o", "masks")))
    assert code == 66
    assert b"pseudo  starting" in data
    assert _show(data).lines == ["wsss pseudo: missing.h5: does not exist. Give a shard or a folder of shards."]
