"""A terminal for tests: records what processes write to it, and shows the screen at any byte of the recording."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_SEQUENCE = re.compile(r"\[(\d*)([A-Za-z])")


class Screen:
    """The rows of a terminal that knows \\r, \\n, and the sequences that move the cursor up, insert and erase."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.cells = columns, [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0
        self.scrolled: list[str] = []
        self._sequence: str | None = None

    def feed(self, data: bytes) -> None:
        """Show further bytes."""
        for character in data.decode("ascii"):
            if self._sequence is not None:
                self._add_to_sequence(character)
            elif character == "\x1b":
                self._sequence = ""
            elif character == "\r":
                self.column = 0
            elif character == "\n":
                self._start_row()
            else:
                assert character.isprintable(), f"control character {character!r}"
                if self.column == self.columns:
                    self._start_row()
                    self.column = 0
                self.cells[self.row][self.column] = character
                self.column += 1

    def _start_row(self) -> None:
        if self.row == len(self.cells) - 1:
            self.scrolled.append("".join(self.cells.pop(0)).rstrip())
            self.cells.append([" "] * self.columns)
        else:
            self.row += 1

    def _add_to_sequence(self, character: str) -> None:
        self._sequence = f"{self._sequence}{character}"
        match = _SEQUENCE.fullmatch(self._sequence)
        if match:
            actions = {"A": self._move_up, "K": self._erase_line, "J": self._erase_below, "L": self._insert_lines}
            actions[match[2]](int(match[1] or 1))
            self._sequence = None

    def _move_up(self, count: int) -> None:
        self.row = max(0, self.row - count)

    def _erase_line(self, _: int) -> None:
        self.cells[self.row][self.column:] = [" "] * (self.columns - self.column)

    def _erase_below(self, _: int) -> None:
        self._erase_line(0)
        for row in self.cells[self.row + 1:]:
            row[:] = [" "] * self.columns

    def _insert_lines(self, count: int) -> None:
        for _ in range(count):
            self.cells.pop()
            self.cells.insert(self.row, [" "] * self.columns)

    @property
    def lines(self) -> list[str]:
        """The rows that are not empty, without those that have scrolled away."""
        return [line for row in self.cells if (line := "".join(row).rstrip())]


def set_size(terminal: int, columns: int, rows: int) -> None:
    """Set the size of a terminal."""
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@contextmanager
def open_terminal(columns: int, rows: int) -> Iterator[tuple[int, int]]:
    """Yield the two ends of a terminal: that of the emulator, which reads, and that of programs, which write."""
    reading, writing = pty.openpty()
    set_size(writing, columns, rows)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def read_available(reading: int) -> bytes:
    """Return what has been written to a terminal since the last call."""
    data = b""
    while select.select([reading], [], [], 0)[0]:
        data += os.read(reading, 1 << 16)
    return data


def record_shell(command: str, cwd: Path, environment: Mapping[str, str], size: tuple[int, int],
                 after_output: Callable[[bytes], None] = lambda data: None) -> tuple[int, bytes]:
    """Run a command of bash in a session of its own on a terminal; return its exit code and all it wrote.

    `after_output` gets what has been written since its last call. `size` is (columns, rows).
    """
    reading, writing = pty.openpty()
    set_size(writing, *size)
    # A session needs its terminal as the controlling one, so that the shell's commands are in the foreground.
    take_terminal = ("import fcntl, os, sys, termios\n"
                     "fcntl.ioctl(2, termios.TIOCSCTTY, 0)\n"
                     "os.execvp('bash', sys.argv[1:])")
    process = subprocess.Popen([sys.executable, "-c", take_terminal, "bash", "-c", command], cwd=cwd, stdin=writing,
                               env=dict(environment), stdout=writing, stderr=writing, start_new_session=True)
    os.close(writing)
    data = b""
    while chunk := _read_until_end(reading):
        data += chunk
        after_output(chunk)
    os.close(reading)
    return process.wait(), data


def _read_until_end(reading: int) -> bytes:
    try:
        return os.read(reading, 1 << 16)
    except OSError:  # the last process has closed the terminal
        return b""
