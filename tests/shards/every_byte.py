"""Flips every byte of a small file of each kind, and prints a line for each file.

Usage: `python tests/shards/every_byte.py [NAME...]`. Every flip must give an error in one line, which `check` reports
too, or the same contents. Exits with 1 otherwise, also after a crash of HDF5.
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
_FIRST_BYTES = ("0", "1")  # of two processes, which flip every second byte
_MASK = "1"


def flip_every_byte(path: Path) -> list[tuple[int, str, str]]:
    """Return the exit code, the output and the last flipped byte of each process."""
    processes = [subprocess.Popen([sys.executable, FLIPS, path, first, "2", _MASK], text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE) for first in _FIRST_BYTES]
    results = [(process, *process.communicate()) for process in processes]
    return [(process.returncode, out.strip(), err.split()[-1] if err.split() else "0") for process, out, err in results]


def main(names: list[str]) -> int:
    """Flip the bytes of the named files, or of all files; return the exit code."""
    has_failed = False
    for name in names or SMALL_FILES:
        with tempfile.TemporaryDirectory() as folder:
            path = SMALL_FILES[name](Path(folder))
            size = path.stat().st_size
            results = flip_every_byte(path)
            failures = [f"exit code {code} at byte {last}: {out}" for code, out, last in results if code]
            counts = [tuple(map(int, out.split())) for code, out, _ in results if not code]
            summary = f"{sum(errors for errors, _ in counts)} errors, {sum(same for _, same in counts)} harmless"
            print(f"{name}: {size} bytes flipped: {'; '.join(failures) or summary}", flush=True)
            has_failed |= bool(failures)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
