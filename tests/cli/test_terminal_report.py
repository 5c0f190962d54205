"""The text of progress: lines of a log file, lines of a terminal, and summaries."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.runner import run
from stages.flow.execution import Summary
from wsss_cli.progress import Progress, Snapshot
from wsss_cli.progress_text import format_clock, format_duration, format_lines, format_log_line, format_summary
from wsss_cli.terminal_report import TerminalReport


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_log_file_gets_a_line_at_the_start_one_per_minute_and_a_summary(capsys: pytest.CaptureFixture) -> None:
    clock = Clock()
    with TerminalReport("cams", clock=clock) as report:
        report.start_phase("loading weights")
        report.start_progress("", None)
        report.set_total(40)
        report.set_total(44)
        report.advance(8, resumed=True)
        clock.seconds = 5.0
        report.start_phase("")
        for second in range(6, 130):
            clock.seconds = float(second)
            if second % 5 == 0:
                report.advance(1)
        report.print_path(Path("cams/a.h5"))
        report.print_summary(Summary(num_written=2, num_images=44, num_failed=1), Path("cams"))
    captured = capsys.readouterr()
    assert captured.out == "cams/a.h5\n"
    assert captured.err.splitlines() == [
        "cams: 40 images",
        "cams: 19 of 44 images (0.20 per second, 2 min 5 s left)",
        "cams: 31 of 44 images (0.20 per second, 1 min 5 s left)",
        "cams: 44 images in 2 min 9 s (0.19 per second, 20 were finished before), 1 failed, wrote 2 shards to cams"]


def test_quiet_prints_no_progress_but_errors(capsys: pytest.CaptureFixture) -> None:
    clock = Clock()
    with TerminalReport("cams", quiet=True, clock=clock) as report:
        report.start_progress("", 40)
        clock.seconds = 90.0
        report.advance(40)
        report.info("an error", always=True)
        report.print_summary(Summary(num_written=1, num_images=40), Path("cams"))
    assert capsys.readouterr().err == "an error\n"


def test_only_the_first_process_of_a_training_reports(capsys: pytest.CaptureFixture,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with TerminalReport("train-cls") as report:
        report.start_progress("", 40, unit="steps")
        report.print_summary(Summary(num_written=1, work="8 epochs"), Path("cam.safetensors"))
    assert capsys.readouterr().err == ""
    with TerminalReport("cams") as report:  # RANK says nothing about other stages
        report.start_progress("", 40)
    assert capsys.readouterr().err == "cams: 40 images\n"


def test_the_rate_is_that_of_new_images_in_the_last_30_seconds() -> None:
    clock = Clock()
    progress = Progress("cams", clock)
    progress.start_counting("", 1000, "images")
    clock.seconds = 100.0
    progress.start_phase("")  # the weights are loaded: the clock of the rate starts
    progress.advance(500, resumed=True)
    assert progress.take_snapshot().rate is None
    for _ in range(60):  # one per second for a minute, then four per second
        clock.seconds += 1
        progress.advance(1, resumed=False)
    assert progress.take_snapshot().rate == pytest.approx(1)
    for _ in range(40):
        clock.seconds += 1
        progress.advance(4, resumed=False)
    snapshot = progress.take_snapshot()
    assert snapshot.rate == pytest.approx(4)
    assert (snapshot.done, snapshot.seconds_left) == (720, pytest.approx(280 / 4))
    clock.seconds += 31  # nothing was finished meanwhile
    assert progress.take_snapshot().rate == pytest.approx(30 * 4 / 61, rel=0.05)


def test_lines_of_a_terminal() -> None:
    snapshots = [Snapshot("cams", has_counts=True, done=12, total=40, rate=3.5),
                 Snapshot("refine", "waiting for cams", has_counts=True, done=4, total=16, expected=40, rate=0.03),
                 Snapshot("pseudo", "loading weights", 2.0)]
    assert format_lines(snapshots, 100, now=5.2) == [
        "cams    12/40  [######..............]  3.5 images/s  0:08 left",
        "refine  4/16+                          1.8 images/min  ~20:00 left  waiting for cams",
        "pseudo  loading weights  0:03"]
    for width in range(1, 100):
        assert all(len(line) <= width for line in format_lines(snapshots, width, now=5.2))
    assert format_lines([Snapshot("cams", "writing 写真\x1b[2J.h5", has_counts=True, done=4, unit="steps")], 26, 0) == [
        "cams  4 steps  writing 写"]


def test_lines_of_a_log_file() -> None:
    waiting = Snapshot("refine", "waiting for cams", has_counts=True, done=4, total=16, expected=40, rate=0.03)
    assert format_log_line(waiting) == (
        "refine: 4 of 16 or more images (1.8 per minute, about 20 min left, waiting for cams)")
    assert format_log_line(Snapshot("train-cls", has_counts=True, done=4, unit="steps")) == "train-cls: 4 steps"


@pytest.mark.parametrize(("seconds", "duration", "clock"), [
    (0.0, "0.1 s", "0:00"), (3.24, "3.2 s", "0:03"), (12.4, "12 s", "0:12"), (59.7, "1 min", "1:00"),
    (190, "3 min 10 s", "3:10"), (7500, "2 h 5 min", "2:05:00"), (183845, "51 h 4 min", "2 d 03:04:05")])
def test_durations(seconds: float, duration: str, clock: str) -> None:
    assert (format_duration(seconds), format_clock(seconds)) == (duration, clock)


@pytest.mark.parametrize(("summary", "output", "num_new", "text"), [
    (Summary(num_written=1, num_images=40, num_failed=1), "cams", 40,
     "cams: 40 images in 12 s (3.3 per second), 1 failed, wrote 1 shard to cams"),
    (Summary(num_written=3, num_images=40), "cams", 36,
     "cams: 40 images in 12 s (3.0 per second, 4 were finished before), wrote 3 shards to cams"),
    (Summary(num_written=1, num_images=1), "a.h5", 0, "cams: 1 image in 12 s, wrote a.h5"),
    (Summary(num_up_to_date=2, num_images=40), "cams", 0, "cams: up to date (40 images)"),
    (Summary(num_up_to_date=2, num_images=40, num_failed=2), "cams", 0, "cams: up to date (40 images, 2 failed)"),
    (Summary(num_written=1, work="8 epochs"), "cam.safetensors", 80, "cams: 8 epochs in 12 s"),
    (Summary(num_written=9, num_images=9, written_noun="file"), "png", 9,
     "cams: 9 images in 12 s (0.75 per second), wrote 9 files to png"),
    (Summary(num_up_to_date=1), "cam.safetensors", 0, ""), (Summary(), "", 0, "")])
def test_summaries(summary: Summary, output: str, num_new: int, text: str) -> None:
    assert format_summary(Snapshot("cams"), summary, Path(output), 12.0, num_new) == text


def test_a_command_ends_with_a_summary(maps: Path, tmp_path: Path) -> None:
    made = run("pseudo", maps, "-o", tmp_path / "masks", "-j", 1).err.splitlines()
    assert (made[0], len(made)) == ("pseudo: 12 images", 2)
    summary = rf"pseudo: 12 images in [\d.]+ s( \(.* per second\))?, wrote 1 shard to {tmp_path}/masks"
    assert re.fullmatch(summary, made[1])
    again = run("pseudo", maps, "-o", tmp_path / "masks", "-j", 1).err.splitlines()
    assert again == [f"{tmp_path}/masks/masks-00000-of-00001.h5 is up to date", "pseudo: up to date (12 images)"]
    assert run("pseudo", maps, "-o", tmp_path / "masks", "-f", "-q").err == ""
    assert run("pseudo", maps, "-o", tmp_path / "other", "-n").err.splitlines() == [
        f"Would make {tmp_path}/other/masks-00000-of-00001.h5 (12 images)"]
