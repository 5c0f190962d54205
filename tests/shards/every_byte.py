"""Flips every byte of a small file of each kind: `python tests/shards/every_byte.py [NAME...]`, a line for each.

The outcome of every flip must be an error in one line, found by `check` too, or the same contents. Ends 1 when one is
not, a crash of HDF5 included.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shards.samples import SMALL_FILES

FLIPS = Path(__file__).with_name("flips.py")
_HALVES = ("0", "1")  # one process each
_MASK = "1"


def sweep(path: Path) -> list[tuple[int, str, str]]:
    """Return exit code, output and the last byte of each half of a file."""
    started = [subprocess.Popen([sys.executable, FLIPS, path, first, "2", _MASK], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE) for first in _HALVES]
    ended = [(process, *process.communicate()) for process in started]
    return [(process.returncode, out.strip(), err.split()[-1] if err.split() else "0") for process, out, err in ended]


def main(names: list[str]) -> int:
    """Sweep the files of these names, all without any."""
    failed = False
    for name in names or SMALL_FILES:
        with tempfile.TemporaryDirectory() as folder:
            path = SMALL_FILES[name](Path(folder))
            size = path.stat().st_size
            ended = sweep(path)
            wrong = [f"ended {code} at byte {last}: {out}" for code, out, last in ended if code]
            counts = [tuple(map(int, out.split())) for code, out, _ in ended if not code]
            told = f"{sum(one for one, _ in counts)} told, {sum(same for _, same in counts)} harmless"
            print(f"{name}: {size} bytes flipped: {'; '.join(wrong) or told}", flush=True)
            failed |= bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
