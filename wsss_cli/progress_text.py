"""The words and bars of progress: lines on a terminal, lines of a log file, and the summary at the end of a command."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from stages.flow.execution import Summary
from wsss_cli.progress import Snapshot

_MAX_BAR, _MIN_BAR = 20, 5
_PHASE_CELLS = 18  # reserved, so that the bars keep their length when a phase begins
_SECONDS_FOR_RATE = 1.0  # a rate over a shorter time says nothing


def format_lines(snapshots: Sequence[Snapshot], width: int, now: float) -> list[str]:
    """Return one line per snapshot, with aligned columns, of at most `width` cells of the terminal."""
    names = max((len(snapshot.name) for snapshot in snapshots), default=0)
    counts = max((len(_format_count(snapshot)) for snapshot in snapshots), default=0)
    heads, tails = [], []
    for snapshot in snapshots:
        head = snapshot.name.ljust(names)
        heads.append(f"{head}  {_format_count(snapshot).ljust(counts)}" if snapshot.has_counts else head)
        tails.append(_format_tail(snapshot, now))
    speeds = [_format_speed(snapshot) for snapshot in snapshots]
    longest = max((len(head) + len(speed) for head, speed in zip(heads, speeds, strict=True)), default=0)
    bar = min(_MAX_BAR, width - longest - 8 - _PHASE_CELLS)
    lines = []
    for snapshot, head, tail in zip(snapshots, heads, tails, strict=True):
        middle = f"  {_format_bar(snapshot, bar)}" if snapshot.has_counts and bar >= _MIN_BAR else ""
        lines.append(truncate_cells(f"{head}{middle}  {tail}".rstrip(), width))
    return lines


def _format_count(snapshot: Snapshot) -> str:
    if not snapshot.has_counts:
        return ""
    if snapshot.total is None:
        return f"{snapshot.done} {snapshot.unit}"
    return f"{snapshot.done}/{snapshot.total}{'' if snapshot.expected is None else '+'}"


def _format_bar(snapshot: Snapshot, width: int) -> str:
    """Return a bar; blanks as wide as one if the total is not final."""
    if not snapshot.total or snapshot.expected is not None:
        return " " * (width + 2)
    filled = min(width, width * snapshot.done // snapshot.total)
    return f"[{'#' * filled}{'.' * (width - filled)}]"


def _format_tail(snapshot: Snapshot, now: float) -> str:
    """Return what follows the bar: rate, time left, and what the command is doing."""
    if not snapshot.has_counts:
        return f"{snapshot.phase or 'working'}  {format_clock(now - snapshot.phase_start)}"
    return "  ".join(filter(None, (_format_speed(snapshot), snapshot.phase)))


def _format_speed(snapshot: Snapshot) -> str:
    """Return the rate and the time left, as far as they are known."""
    return "  ".join(filter(None, (_format_short_rate(snapshot), _format_time_left(snapshot))))


def _format_short_rate(snapshot: Snapshot) -> str:
    if not snapshot.rate:
        return ""
    if snapshot.rate < 0.1:
        return f"{format_number(snapshot.rate * 60)} {snapshot.unit}/min"
    return f"{format_number(snapshot.rate)} {snapshot.unit}/s"


def _format_time_left(snapshot: Snapshot) -> str:
    """Return `0:08 left`; with ~ if the total is an estimate."""
    seconds = snapshot.seconds_left
    if not seconds:
        return ""
    return f"{'' if snapshot.expected is None else '~'}{format_clock(seconds)} left"


def format_number(value: float) -> str:
    """Return a positive number with two significant digits, or all digits of its integer part."""
    if value >= 9.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def format_clock(seconds: float) -> str:
    """Return 0:08, 12:05, 1:02:05 or 2 d 03:04:05."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02d}:{minute:02d}:{second:02d}"
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def format_duration(seconds: float) -> str:
    """Return 0.4 s, 12 s, 3 min 10 s or 2 h 5 min."""
    if seconds < 9.95:
        return f"{max(seconds, 0.1):.1f} s"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    parts = [f"{hours} h", f"{minute} min"] if hours else [f"{minute} min", f"{second} s"] if minute else []
    return " ".join(part for part in parts if not part.startswith("0 ")) or f"{second} s"


def format_start(snapshot: Snapshot) -> str:
    """Return the line that a log file has at the start of the work, such as `cams: 40 images`."""
    total = f"{snapshot.total} {snapshot.unit}" if snapshot.expected is None else (
        f"about {snapshot.expected} {snapshot.unit}")
    if snapshot.total == 1 and snapshot.expected is None:
        total = f"1 {snapshot.unit.removesuffix('s')}"
    return f"{snapshot.name}: {snapshot.phase} ({total})" if snapshot.phase else f"{snapshot.name}: {total}"


def format_log_line(snapshot: Snapshot) -> str:
    """Return the line that a log file gets from time to time, such as `cams: 12 of 40 images (3.3 per second, ...)`."""
    total = "" if snapshot.total is None else f" of {snapshot.total}{'' if snapshot.expected is None else ' or more'}"
    details = [_format_long_rate(snapshot.rate) if snapshot.rate else ""]
    if snapshot.seconds_left:
        details.append(f"{'' if snapshot.expected is None else 'about '}{format_duration(snapshot.seconds_left)} left")
    details.append(snapshot.phase)
    text = ", ".join(filter(None, details))
    return f"{snapshot.name}: {snapshot.done}{total} {snapshot.unit}" + (f" ({text})" if text else "")


def _format_long_rate(rate: float) -> str:
    return f"{format_number(rate * 60)} per minute" if rate < 0.1 else f"{format_number(rate)} per second"


def format_summary(snapshot: Snapshot, summary: Summary, output: Path, seconds: float, num_new: int) -> str:
    """Return the summary of a command that took `seconds` and processed `num_new` images, "" if there is none."""
    num_images = summary.num_images or (snapshot.done if snapshot.unit == "images" else 0)
    work = summary.work or (_format_amount(num_images, "image") if num_images else "")
    if not work:
        return ""
    failed = [f"{summary.num_failed} failed"] if summary.num_failed else []
    if summary.num_up_to_date and not summary.num_written:
        return f"{snapshot.name}: up to date ({', '.join([work, *failed])})"
    details = [] if summary.work or not num_new or seconds < _SECONDS_FOR_RATE else [
        _format_long_rate(num_new / seconds)]
    if 0 < num_new < num_images and not summary.work:
        details.append(f"{num_images - num_new} were finished before")
    text = f"{snapshot.name}: {work} in {format_duration(seconds)}" + (f" ({', '.join(details)})" if details else "")
    return ", ".join([text, *failed, *_format_written(summary, output)])


def _format_written(summary: Summary, output: Path) -> list[str]:
    if not summary.num_written or summary.work:
        return []
    if output == Path():  # the stage chose the folder, and has named it
        return []
    if output.suffix == ".h5":
        return [f"wrote {output}"]
    return [f"wrote {_format_amount(summary.num_written, summary.written_noun)} to {output}"]


def _format_amount(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def count_cells(text: str) -> int:
    """Return the number of cells that a text takes on a terminal."""
    return sum(_count_cells_of_character(character) for character in text)


def truncate_cells(text: str, width: int) -> str:
    """Return the start of a text that fits `width` cells, with control characters replaced."""
    used, characters = 0, []
    for character in text:
        character = character if character.isprintable() else "?"
        used += _count_cells_of_character(character)
        if used > width:
            break
        characters.append(character)
    return "".join(characters)


def _count_cells_of_character(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
