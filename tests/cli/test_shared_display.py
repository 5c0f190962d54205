"""Several processes share a terminal: their lines, text above them, processes that die, and what can't be shared."""

from __future__ import annotations

import fcntl
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.terminal import Screen, open_terminal, read_available, set_size
from wsss_cli import shared_display
from wsss_cli.guarded_streams import GuardedStream
from wsss_cli.progress import Snapshot
from wsss_cli.screen_state import find_state_path, read_start_time
from wsss_cli.shared_display import SharedDisplay, compose_redraw, count_rows, open_shared_display
from wsss_cli.terminal_report import TerminalReport


class Terminal:
    """A terminal of 60 x 8, and the processes that draw on it."""

    def __init__(self, reading: int, writing: int, path: Path) -> None:
        self.reading, self.writing, self.path = reading, writing, path
        self.screen = Screen(60, 8)
        self.processes: list[subprocess.Popen] = []

    def start_process(self) -> SharedDisplay:
        """Return the display of a process that lives until it is killed."""
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.processes.append(process)
        display = SharedDisplay(self.path, self.writing)
        # Processes that start within one tick of the clock are in the order of their ids.
        display._pid, display._started = process.pid, read_start_time(process.pid)
        return display

    def kill(self, display: SharedDisplay) -> None:
        """Kill the process of a display."""
        process = next(process for process in self.processes if process.pid == display._pid)
        process.kill()
        process.communicate()

    def read(self) -> list[str]:
        """Return the lines on the screen."""
        self.screen.feed(read_available(self.reading))
        return self.screen.lines


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """Return a terminal whose state is in `tmp_path`."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with open_terminal(60, 8) as (reading, writing):
        terminal = Terminal(reading, writing, find_state_path(writing))
        yield terminal
        for process in terminal.processes:
            process.kill()
            process.communicate()


def describe(name: str, done: int) -> Snapshot:
    """Return the progress of a command without bar and times, whose line is known."""
    return Snapshot(name, has_counts=True, done=done)


def test_lines_of_two_processes_are_updated_in_place(terminal: Terminal) -> None:
    first, second = terminal.start_process(), terminal.start_process()
    second.update(describe("refine", 0))
    first.update(describe("cams", 1))
    # In the order in which the processes started, not in that of their first lines.
    assert [line.split() for line in terminal.read()] == [["cams", "1", "images"], ["refine", "0", "images"]]
    for count in range(2, 5):
        first.update(describe("cams", count))
        second.update(describe("refine", count - 1))
    assert [line.split() for line in terminal.read()] == [["cams", "4", "images"], ["refine", "3", "images"]]
    assert (terminal.path.stat().st_mode & 0o777, terminal.path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    first.remove()
    assert [line.split() for line in terminal.read()] == [["refine", "3", "images"]]
    second.remove()
    assert terminal.read() == []
    assert not terminal.path.exists()


def test_text_is_inserted_above_the_lines_and_hides_none_of_them(terminal: Terminal) -> None:
    first, second = terminal.start_process(), terminal.start_process()
    first.update(describe("cams", 1))
    second.update(describe("refine", 1))
    terminal.read()
    texts = ["one", "x" * 61, "two\nthree", *(f"line {number}" for number in range(6))]
    for text in texts:
        first.print_above(f"{text}\n".encode())
        for byte in read_available(terminal.reading):
            terminal.screen.feed(bytes([byte]))
            assert {"cams", "refine"} <= {line.split(" ")[0] for line in terminal.screen.lines}
    shown = [*terminal.screen.scrolled, *terminal.screen.lines]
    rows = [row for text in texts for line in text.split("\n") for row in (line[:60], line[60:]) if row]
    assert shown[:-2] == rows
    assert [line.split()[0] for line in shown[-2:]] == ["cams", "refine"]


def test_the_line_of_a_killed_process_is_dropped(terminal: Terminal) -> None:
    first, second = terminal.start_process(), terminal.start_process()
    first.update(describe("cams", 1))
    second.update(describe("refine", 1))
    terminal.kill(first)
    second.update(describe("refine", 2))
    assert [line.split() for line in terminal.read()] == [["refine", "2", "images"]]


def test_a_process_with_the_id_of_a_killed_one_is_another_process(terminal: Terminal) -> None:
    first, second = terminal.start_process(), terminal.start_process()
    second.update(describe("refine", 1))
    first._started -= 1  # the state says that the process with this id started at another time
    first.update(describe("cams", 1))
    second.update(describe("refine", 2))
    assert [line.split() for line in terminal.read()] == [["refine", "2", "images"]]


def test_a_file_that_killed_processes_left_behind_changes_nothing(terminal: Terminal) -> None:
    killed = terminal.start_process()
    killed.update(describe("cams", 1))
    terminal.kill(killed)
    read_available(terminal.reading)
    assert terminal.path.exists()
    later = terminal.start_process()
    later.update(describe("pseudo", 1))
    # Other programs may have written to the terminal meanwhile: nothing of it is overwritten.
    assert b"\x1b[1A" not in read_available(terminal.reading)
    later.remove()
    assert not terminal.path.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]\n", b'{"lines": [{}], "drawn": [], "drawn_at": 0}\n',
                                     b"\xff" * 90])
def test_a_damaged_file_is_replaced(terminal: Terminal, content: bytes) -> None:
    terminal.path.write_bytes(content)
    display = terminal.start_process()
    display.update(describe("cams", 1))
    assert [line.split() for line in terminal.read()] == [["cams", "1", "images"]]
    assert len(json.loads(terminal.path.read_bytes())["lines"]) == 1


def test_lines_fit_a_terminal_that_is_resized(terminal: Terminal) -> None:
    display = terminal.start_process()
    snapshot = Snapshot("cams", "a long phase " * 9, 0.0)
    display.update(snapshot)
    assert [len(line) for line in terminal.read()] == [59]
    set_size(terminal.writing, 20, 8)
    display.update(snapshot)
    data = read_available(terminal.reading).replace(b"\r\n", b"\n")
    # The terminal has wrapped the line of 59 cells to three rows.
    assert data.startswith(b"\r\x1b[3A") and b"cams  a long phase \x1b[K\n" in data


def test_counts_rows_of_wrapped_lines() -> None:
    assert count_rows([0, 20, 21, 41], 20) == 1 + 1 + 2 + 3
    assert compose_redraw(0, [], b"text\n", 20, 8) == b"text\n"
    assert compose_redraw(2, [], b"", 20, 8) == b"\r\x1b[2A\x1b[J"
    # A text higher than the terminal can't be inserted: the lines are erased and drawn again.
    assert compose_redraw(2, ["a"], b"x\n" * 9, 20, 8) == b"\r\x1b[2A\x1b[J" + b"x\n" * 9 + b"a\x1b[K\n\x1b[J"


def test_a_redraw_is_skipped_while_another_process_draws_but_text_is_not(terminal: Terminal,
                                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_display, "_TEXT_PATIENCE", 0.05)
    display = terminal.start_process()
    assert display.update(describe("cams", 1))
    terminal.read()
    with terminal.path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert not display.update(describe("cams", 2))
        assert read_available(terminal.reading) == b""
        display.print_above(b"an error\n")
    assert terminal.read()[-1] == "an error"
    assert display.update(describe("cams", 3))


def test_after_a_stop_the_lines_are_drawn_anew(terminal: Terminal) -> None:
    display = terminal.start_process()
    display.update(describe("cams", 1))
    terminal.read()
    display.forget_drawn_lines()
    display.update(describe("cams", 2))
    assert b"A" not in read_available(terminal.reading)
    display.update(describe("cams", 3))
    assert b"\x1b[1A" in read_available(terminal.reading)


@pytest.mark.parametrize("problem", ["a file", "another mode", "no locks", "a dumb terminal"])
def test_without_a_place_for_the_state_there_are_plain_lines(terminal: Terminal, tmp_path: Path, problem: str,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    if problem == "a file":
        (tmp_path / "file").touch()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    elif problem == "another mode":
        terminal.path.parent.chmod(0o755)
    elif problem == "no locks":
        def refuse(*_: object) -> None:
            raise OSError(37, "No locks available")
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        monkeypatch.setenv("TERM", "dumb")
    assert open_shared_display(terminal.writing) is None
    times = [0.0]
    with os.fdopen(os.dup(terminal.writing), "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with TerminalReport("cams", clock=lambda: times[-1]) as report:
            report.start_progress("", 40)
            for seconds in (9.0, 10.0, 19.0, 20.0):
                times.append(seconds)
                report.advance(1)
    data = read_available(terminal.reading).replace(b"\r\n", b"\n").decode()
    assert data.splitlines() == ["cams: 40 images", "cams: 2 of 40 images (0.20 per second, 3 min 10 s left)",
                                 "cams: 4 of 40 images (0.20 per second, 3 min left)"]


def test_a_report_guards_the_streams_of_its_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths and messages, also of libraries that print themselves, do not mix with the line."""
    with os.fdopen(os.dup(terminal.writing), "w") as out, os.fdopen(os.dup(terminal.writing), "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with TerminalReport("pseudo") as report:
            report.start_phase("loading weights")
            report.print_path(Path("masks/a.h5"))
            print("unfinished", end="", file=sys.stderr)
            report.info("a message")
            assert isinstance(sys.stdout, GuardedStream) and sys.stdout.isatty()
            sys.stdout.buffer.write(b"picture\n")
            sys.stdout.buffer.flush()
        monkeypatch.undo()
    assert terminal.read() == ["masks/a.h5", "unfinisheda message", "picture"]
    assert not terminal.path.exists()


def test_only_the_streams_of_the_terminal_are_guarded(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO())
    with os.fdopen(os.dup(terminal.writing), "w") as err:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with TerminalReport("pseudo") as report:
            assert sys.stdout is out
            report.print_path(Path("masks/a.h5"))
        monkeypatch.undo()
    assert out.buffer.getvalue() == b"masks/a.h5\n"
    assert terminal.read() == []
