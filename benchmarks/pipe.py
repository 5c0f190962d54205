"""Measure what a pipe of three stages takes beside its slowest stage, and what files cost a stage.

    python benchmarks/pipe.py [--images 48]

Runs `cams cnn | refine crf | pseudo` on drawn photographs of 500 x 375 pixels, a process and a thread per stage, and
then each stage alone. Needs two cores that are free. The share of files is that of the phases `open`, `journal` and
`write` in the profile of a stage that runs alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from results import Result, record_results

from training import ROOT, run_wsss, write_photographs

MAX_RATIO, MAX_FILES = 1.15, 0.03


def time_stages(folder: Path, stages: Sequence[Sequence[str]]) -> float:
    """Return the wall seconds of stages that are joined by pipes. Ends the program if one fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    start, previous, processes = time.monotonic(), None, []
    for position, words in enumerate(stages):
        is_last = position == len(stages) - 1
        processes.append(subprocess.Popen([sys.executable, "-m", "wsss_cli", *words, "-j", "1", "-q"], cwd=folder,
                                          env=environment, stdin=previous,
                                          stdout=subprocess.DEVNULL if is_last else subprocess.PIPE))
        if previous is not None:
            previous.close()
        previous = processes[-1].stdout
    if max(abs(process.wait()) for process in processes):
        sys.exit("a stage failed")
    return time.monotonic() - start


def read_file_share(path: Path) -> float:
    """Return the share of a stage's seconds that opening, journal and writing of its shards take."""
    phases: dict[str, float] = {}
    for line in path.read_text().splitlines():
        for phase, seconds in json.loads(line)["phases"].items():
            phases[phase] = phases.get(phase, 0.0) + seconds
    in_turn = sum(seconds for phase, seconds in phases.items() if phase not in ("decode", "wait_input", "prepare"))
    return sum(phases.get(phase, 0.0) for phase in ("open", "journal", "write")) / in_turn


def main() -> int:
    """Measure and print; return 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_photographs(folder, arguments.images)
        run_wsss(folder, "index", "table", "tags.csv", "--images", "images", "--class-names", "classes.txt", "-q", "-o",
                 "train.h5")
        run_wsss(folder, "train-cls", "cam", "train.h5", "--stride", 16, "--epochs", 1,
                 "--batch-size", 8, "--keep-going", "-q", "-o", "net.safetensors")
        cams = ("cams", "cnn", "train.h5", "--net", "net.safetensors", "--shard-size", "8")
        piped = time_stages(folder, [(*cams, "-o", "p1"), ("refine", "crf", "-o", "p2"), ("pseudo", "-o", "p3")])
        alone = {"cams": time_stages(folder, [(*cams, "-o", "a1", "--profile", "cams.jsonl")]),
                 "refine": time_stages(folder, [("refine", "crf", "a1", "-o", "a2", "--profile", "refine.jsonl")]),
                 "pseudo": time_stages(folder, [("pseudo", "a2", "-o", "a3", "--profile", "pseudo.jsonl")])}
        shares = {name: read_file_share(folder / f"{name}.jsonl") for name in ("cams", "refine")}
    results = [Result("cams cnn | refine crf | pseudo, of its slowest stage", piped / max(alone.values()), "ratio",
                      MAX_RATIO),
               *(Result(f"{name} alone", seconds, "s") for name, seconds in alone.items()),
               *(Result(f"files, share of {name}", share, "ratio", MAX_FILES) for name, share in shares.items())]
    for result in results:
        print(f"{result.name:62s} {result.value:8.3f} {result.unit:6s} {result.describe_goal()}")
    return record_results(*results)


if __name__ == "__main__":
    sys.exit(main())
