"""Run the benchmarks of the CPU and print every result next to its goal.

    python benchmarks/run.py [--only pamr,cams] [--json] [--list]
    python benchmarks/run.py --old COMMIT [--only pamr,cams] [--rounds 3]

With `--old` the parts run alternately on another commit, checked out in a temporary folder, and on this working tree;
both are measured by this folder's benchmarks. A part that the other commit does not have is marked with its error.
With `--json` standard output has one line of JSON per result, with the machine and the versions.

To add a part, add a line to PARTS; its script calls `results.record_results`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from results import RESULTS_VARIABLE, Result

ROOT = Path(__file__).resolve().parents[1]
TIME_LIMIT = 600  # seconds of a part
# Name, and the script with its arguments. Together they take less than twenty minutes on two cores.
PARTS: Mapping[str, tuple[str, ...]] = {
    "help": ("help.py", "--rounds", "5"),
    "cooc": ("cooc.py", "--rounds", "3"),
    "pamr": ("pamr.py", "--rounds", "2"),
    "cams": ("cams.py",),
    "text": ("dense_text.py", "--rounds", "3"),
    "clip-es": ("clip_es.py",),
    "excel": ("excel.py",),
    "walk": ("walk.py",),
    "cluster": ("cluster.py", "--rounds", "1"),
    "training": ("training.py", "--images", "32", "--epochs", "2"),
    "pipe": ("pipe.py", "--images", "24"),
    "masks": ("masks.py", "--images", "200"),
    "scale": ("scale.py", "--shards", "50"),
    "memory": ("memory.py", "--sizes", "12 MP", "--only", "cams cnn"),
}
PACKAGES = ("torch", "numpy", "numba", "scipy", "h5py", "Pillow")
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def run_part(name: str, folder: Path) -> tuple[list[Result], str]:
    """Return (results, error) of the part `name` with the package in `folder`; the table of the part goes to stderr."""
    script, *arguments = PARTS[name]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, "results.jsonl")
        environment = {**os.environ, **THREADS, RESULTS_VARIABLE: str(path), "PYTHONPATH": str(folder)}
        try:
            process = subprocess.run([sys.executable, folder / "benchmarks" / script, *arguments], env=environment,
                                     cwd=folder, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            return [], f"took more than {TIME_LIMIT} s"
        print(process.stdout, end="", file=sys.stderr, flush=True)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        results = [Result(**json.loads(line)) for line in lines]
        is_failed = process.returncode and all(result.is_met for result in results)
        last_line = (process.stderr.strip().splitlines() or [f"exited with {process.returncode}"])[-1]
        return results, last_line if is_failed else ""


@contextmanager
def check_out(commit: str) -> Iterator[Path]:
    """Check out a commit in a temporary worktree, with the benchmarks of this one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "old")
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", folder, commit], cwd=ROOT, check=True)
        try:
            shutil.copytree(ROOT / "benchmarks", folder / "benchmarks", dirs_exist_ok=True)
            yield folder
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", folder], cwd=ROOT, check=True)


def describe_machine() -> dict[str, str]:
    """Return the processor, the number of cores, and the versions that the speed depends on."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"processor": processor, "cores": str(os.cpu_count()), "python": platform.python_version(), **versions}


def run_all(names: Sequence[str], *, as_json: bool) -> int:
    """Run parts, print their results, and return 1 if a goal is not met or a part failed."""
    machine, start, is_good = describe_machine(), time.monotonic(), True
    if not as_json:
        print(", ".join(f"{name} {value}" for name, value in machine.items()))
        print(f"{'part':8} {'result':42} {'value':>9} {'unit':9} goal")
    for name in names:
        results, error = run_part(name, ROOT)
        is_good &= not error and all(result.is_met for result in results)
        for result in results:
            row = {"part": name, **vars(result), "met": result.is_met, "machine": machine}
            print(json.dumps(row) if as_json else f"{name:8} {result.name:42} {result.value:9.4g} {result.unit:9} "
                  f"{result.describe_goal()}", flush=True)
        if error or not results:
            message = error or "recorded no results"
            print(json.dumps({"part": name, "error": message}) if as_json else f"{name:8} failed: {message}",
                  flush=True)
            is_good = False
    print(f"{time.monotonic() - start:.0f} s", file=sys.stderr)
    return int(not is_good)


def compare_commits(names: Sequence[str], old: str, rounds: int) -> int:
    """Run parts alternately on the commit `old` and on this tree, and print the medians side by side."""
    print(f"{'part':8} {'result':42} {'old':>9} {'new':>9} {'new/old':>8} unit")
    with check_out(old) as folder:
        for name in names:
            values: dict[tuple[str, str], dict[str, list[float]]] = {}
            for _ in range(rounds):
                for version, root in (("old", folder), ("new", ROOT)):
                    results, error = run_part(name, root)
                    if error:
                        print(f"{name:8} {version} failed: {error}", flush=True)
                    for result in results:
                        values.setdefault((result.name, result.unit), {}).setdefault(version, []).append(result.value)
            for (result_name, unit), versions in values.items():
                if len(versions) == 2:
                    old_value, new_value = (statistics.median(versions[version]) for version in ("old", "new"))
                    ratio = f"{new_value / old_value:8.3f}" if old_value else f"{'-':>8}"
                    print(f"{name:8} {result_name:42} {old_value:9.4g} {new_value:9.4g} {ratio} {unit}", flush=True)
    return 0


def main() -> int:
    """Run the selected parts; return 1 if a goal is not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--json", action="store_true", help="print a line of JSON per result")
    parser.add_argument("--list", action="store_true", help="print the names of the parts")
    parser.add_argument("--old", default="", help="commit to compare with")
    parser.add_argument("--rounds", type=int, default=3, help="alternations with --old")
    arguments = parser.parse_args()
    names = [name for name in arguments.only.split(",") if name]
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; the parts are {', '.join(PARTS)}")
    if arguments.list:
        print("\n".join(names))
        return 0
    return compare_commits(names, arguments.old, arguments.rounds) if arguments.old else run_all(
        names, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
