"""Draws the progress of all commands of a pipe on the terminal that they share, without overwriting each other.

Every redraw happens under the lock of the state file (screen_state.py): move up to the first line, overwrite every line
in place, clear what is below. Text of any command is inserted above the lines. Lines are never cleared before they are
drawn again, so that none of them flickers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from wsss_cli.progress import Snapshot
from wsss_cli.progress_text import count_cells, format_lines
from wsss_cli.screen_state import (
    Line,
    Screen,
    find_state_path,
    load_screen,
    lock_state,
    read_start_time,
    store_screen,
)

_REDRAW_PATIENCE = 0.05  # seconds; a redraw that has to wait longer is skipped
_TEXT_PATIENCE = 2.0  # text is never skipped: it is then written without the lock
_DEFAULT_SIZE = (80, 24)


class SharedDisplay:
    """The part of this process in the display on the terminal behind a descriptor."""

    def __init__(self, path: Path, terminal: int) -> None:
        """Raises OSError if the state file at `path` can't be made or locked."""
        self._path, self._terminal = path, terminal
        self._pid = os.getpid()
        self._started = read_start_time(self._pid) or 0
        self._is_broken = False
        self._continued_at = 0.0
        with lock_state(path, _REDRAW_PATIENCE) as descriptor:
            if descriptor is not None:
                _store_or_remove(path, descriptor, load_screen(descriptor))

    def update(self, snapshot: Snapshot) -> bool:
        """Show a new state of this process; return False if another process was drawing all the time."""
        line = Line(self._pid, self._started, snapshot)
        return self._redraw(lambda screen: screen.set_line(line), b"", _REDRAW_PATIENCE)

    def print_above(self, text: bytes) -> None:
        """Write complete lines of text above all lines of progress."""
        if not self._redraw(lambda screen: None, text, _TEXT_PATIENCE):
            _write(self._terminal, text)

    def remove(self, text: bytes = b"") -> None:
        """Remove the line of this process, and write complete lines of text above the others.

        The last process clears the display and removes the file.
        """
        if not self._redraw(lambda screen: screen.remove_line(self._pid), text, _TEXT_PATIENCE):
            _write(self._terminal, text)

    def forget_drawn_lines(self) -> None:
        """Note that the command was stopped and continued: other programs have written to the terminal meanwhile."""
        self._continued_at = time.monotonic()

    def _redraw(self, change: Callable[[Screen], None], text: bytes, patience: float) -> bool:
        """Change the lines, write `text` above them, and draw them; return whether that happened."""
        if self._is_broken:
            return False
        is_written = False
        try:
            with lock_state(self._path, patience) as descriptor:
                if descriptor is None:
                    return False
                screen = load_screen(descriptor)
                screen.drop_dead_lines()
                change(screen)
                _write(self._terminal, self._compose(screen, text))
                is_written = True
                _store_or_remove(self._path, descriptor, screen)
        except OSError:  # the folder has gone, or its disk is full: from now on there are plain lines
            self._is_broken = True
        return is_written

    def _compose(self, screen: Screen, text: bytes) -> bytes:
        """Return what to write to the terminal, and note in `screen` what it then shows."""
        now = time.monotonic()
        columns, height = _get_size(self._terminal)
        if screen.drawn_at < self._continued_at:
            screen.drawn = []
        is_foreground = _is_foreground(self._terminal)
        snapshots = [line.snapshot for line in screen.lines][:max(0, height - 1)] if is_foreground else []
        # One cell stays free: a terminal may start a new row as soon as the last cell is written.
        lines = format_lines(snapshots, columns - 1, now)
        old_rows = count_rows(screen.drawn, columns) if is_foreground else 0
        screen.drawn, screen.drawn_at = [count_cells(line) for line in lines], now
        return compose_redraw(old_rows, lines, text, columns, height)


def compose_redraw(old_rows: int, lines: Sequence[str], text: bytes, columns: int, height: int) -> bytes:
    """Return the bytes that write `text` where the `old_rows` rows of progress begin, and `lines` below it.

    The cursor is in the row below the old lines, and will be in the row below the new ones. Rows for the text are
    inserted if the terminal is high enough, so that the old lines stay visible.
    """
    if not old_rows and not lines:
        return text
    output = b"\r"
    text_rows = count_rows([count_cells(line) for line in text.decode(errors="replace").expandtabs().splitlines()],
                           columns)
    if text_rows and old_rows and text_rows + old_rows < height:
        output += b"\n" * text_rows + b"\x1b[%dA\x1b[%dL" % (text_rows + old_rows, text_rows)
    elif old_rows:
        output += b"\x1b[%dA" % old_rows + (b"\x1b[J" if text else b"")
    output += text
    for line in lines:
        output += line.encode() + b"\x1b[K\n"
    return output + b"\x1b[J"


def count_rows(widths: Sequence[int], columns: int) -> int:
    """Return how many rows lines of these widths take: terminals wrap long lines again when they become narrower."""
    return sum(max(1, -(-width // columns)) for width in widths)


def open_shared_display(terminal: int) -> SharedDisplay | None:
    """Return the display on a terminal, None if it can't show one or there is no place for the state file."""
    if os.environ.get("TERM", "dumb") == "dumb":
        return None
    try:
        return SharedDisplay(find_state_path(terminal), terminal)
    except OSError:
        return None


def _store_or_remove(path: Path, descriptor: int, screen: Screen) -> None:
    if screen.lines:
        store_screen(descriptor, screen)
    else:
        path.unlink(missing_ok=True)


def _get_size(terminal: int) -> tuple[int, int]:
    """Return the (columns, rows) of a terminal; asked for each time, because it may have been resized."""
    try:
        columns, rows = os.get_terminal_size(terminal)
    except OSError:
        return _DEFAULT_SIZE
    return columns or _DEFAULT_SIZE[0], rows or _DEFAULT_SIZE[1]


def _is_foreground(terminal: int) -> bool:
    """Return whether this process may draw: False for a job in the background, whose terminal another one uses."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # not the terminal of this session, so there are no jobs
        return True


def _write(terminal: int, data: bytes) -> None:
    """Write everything; give up if the terminal has gone."""
    try:
        while data:
            data = data[os.write(terminal, data):]
    except OSError:
        return
