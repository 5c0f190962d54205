"""Commands in this process, where only exit code and output matter: a subprocess costs 2 to 3 seconds."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from command_server import forked_workers
from conftest import Result
from pictures import Folder
from stages.flow.execution import Stop
from stages.shards import Run
from wsss_cli.app import app

SMALL = ("--scales", "1", "--device", "cpu")
TRAINING = ("--net", "wsss:tiny", "--crop-size", "32", "--epochs", "1", "--batch-size", "4", "--threads", "1",
            "--device", "cpu")


def run(*args: object, cwd: Path | None = None) -> Result:
    """Run `wsss ARGS` in the folder `cwd`; what it changes in this process is put back."""
    handlers = {number: signal.getsignal(number) for number in Stop.SIGNALS}
    before = Path.cwd()
    try:
        if cwd is not None:
            os.chdir(cwd)
        with forked_workers():
            done = CliRunner().invoke(app, list(map(str, args)), prog_name="wsss", env={"COLUMNS": "120"})
    finally:
        os.chdir(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


def good(*args: object, cwd: Path | None = None) -> list[str]:
    """Run a command that must end with 0, and return the lines of its standard output."""
    done = run(*args, cwd=cwd)
    assert done.code == 0, f"wsss {' '.join(map(str, args))}: {done.code}\n{done.err}"
    return done.out.splitlines()


def refused(done: Result, code: int, *told: str) -> str:
    """Check an answer to bad input: the code, and one last line on standard error with all of `told`."""
    lines = [line for line in done.err.splitlines() if line.startswith("wsss ")]
    assert done.code == code, f"{done.code}: {done.err}"
    assert len(lines) == 1, done.err
    assert lines[0] == done.err.splitlines()[-1], f"the answer is the last line: {done.err}"
    assert "Traceback" not in done.err
    assert "internal error" not in lines[0]
    for text in told:
        assert text in lines[0], f"{text!r} is not in {lines[0]!r}"
    return lines[0]


def of_items(path: Path, kind: str, dataset: str) -> dict[str, np.ndarray]:
    """Return a dataset of every item of a run that a command made."""
    run_of = Run([path], kind)
    return {name: run_of.item(name).datasets[dataset] for name in run_of.ids if name in run_of}


def copy_of(folder: Folder, place: Path) -> Path:
    """Copy a data set to `place`, to be changed there; return its root."""
    return Path(shutil.copytree(folder.root, place))


def index_table(root: Path, output: Path, *more: object) -> Result:
    """Index the data set at `root` by its table of tags, masks included."""
    return run("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "--masks",
               root / "SegmentationClass", "--class-names", root / "classes.txt", "-o", output, *more)
