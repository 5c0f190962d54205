"""Run commands in the process of the test if only exit code and output matter: a subprocess costs 2 to 3 seconds."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from command_server import forked_workers
from conftest import Result
from stages.flow.execution import Stop
from stages.shards import Run
from tiny_datasets import TinyDataset
from wsss_cli.app import app

SMALL = ("--scales", "1", "--device", "cpu")
TRAINING = ("--net", "wsss:tiny", "--crop-size", "32", "--epochs", "1", "--batch-size", "4", "--threads", "1",
            "--device", "cpu")


def run(*args: object, cwd: Path | None = None) -> Result:
    """Run `wsss ARGS` in the folder `cwd`, and restore signal handlers and working directory afterwards."""
    handlers = {number: signal.getsignal(number) for number in Stop.SIGNALS}
    previous_folder = Path.cwd()
    try:
        if cwd is not None:
            os.chdir(cwd)
        with forked_workers():
            done = CliRunner().invoke(app, list(map(str, args)), prog_name="wsss", env={"COLUMNS": "120"})
    finally:
        os.chdir(previous_folder)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


def run_ok(*args: object, cwd: Path | None = None) -> list[str]:
    """Run a command that must succeed, and return the lines of its stdout."""
    done = run(*args, cwd=cwd)
    assert done.code == 0, f"wsss {' '.join(map(str, args))}: {done.code}\n{done.err}"
    return done.out.splitlines()


def list_messages(done: Result) -> list[str]:
    """Return the lines of stderr without starts (`cams: 12 images`), summaries and lists of classes."""
    return [line for line in done.err.splitlines()
            if not re.match(r"[a-z-]+: (\d+ images?|up to date)\b|Summary of the index: |The classes of |  ", line)]


def check_error(done: Result, code: int, *texts: str) -> str:
    """Check an error: the exit code, and a single message, the last line of stderr, which contains all `texts`."""
    lines = [line for line in done.err.splitlines() if line.startswith("wsss ")]
    assert done.code == code, f"{done.code}: {done.err}"
    assert len(lines) == 1, done.err
    assert lines[0] == done.err.splitlines()[-1], f"the message is not the last line: {done.err}"
    assert "Traceback" not in done.err
    assert "internal error" not in lines[0]
    for text in texts:
        assert text in lines[0], f"{text!r} is not in {lines[0]!r}"
    return lines[0]


def read_items(path: Path, kind: str, dataset: str) -> dict[str, np.ndarray]:
    """Return a dataset of every item of a run."""
    items_run = Run([path], kind)
    return {name: items_run.item(name).datasets[dataset] for name in items_run.ids if name in items_run}


def copy_dataset(folder: TinyDataset, target: Path) -> Path:
    """Copy a data set to `target`, where a test may change it; return its root."""
    return Path(shutil.copytree(folder.root, target))


def index_table(root: Path, output: Path, *more: object) -> Result:
    """Index the data set at `root` with its table of tags and its masks."""
    return run("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "--masks",
               root / "SegmentationClass", "--class-names", root / "classes.txt", "-o", output, *more)
