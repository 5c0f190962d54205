"""Fuzzes every reader with atheris, guided by coverage: `python tests/fuzz/run.py [--seconds 12] [--seed 1] [NAME...]`.

Each target runs in a process of its own, from its files in tests/fuzz/corpus: a crash of a C library, a hang of 20
seconds and more than 4 GB end that process alone. What it found is kept in the folder `--found` and is to be mended,
and added to the corpus. Ends 1 when anything was found, 69 where atheris can't be had.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
sys.path[:0] = [str(FUZZ.parents[1]), str(FUZZ.parent)]
CORPUS = FUZZ / "corpus"
_LIMITS = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=20000", "-print_final_stats=1")


def fuzz_here(name: str, words: list[str]) -> None:
    """Fuzz one target in this process; `words` are libFuzzer's."""
    import atheris
    with atheris.instrument_imports(include=["stages", "wsss_cli", "tarfile", "tomllib"]):
        from fuzz.targets import TARGETS
    from stages.errors import WsssError
    read = TARGETS[name]

    def once(data: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            try:
                read(data, Path(folder))
            except WsssError as error:
                assert "\n" not in str(error), "an answer of several lines"

    with tempfile.TemporaryDirectory() as parent:
        atheris.Setup([sys.argv[0], *words], once)
        atheris.Fuzz()


def fuzz_apart(name: str, seconds: int, seed: int, found: Path) -> bool:
    """Fuzz one target in a process of its own; print a line, and return whether it found nothing."""
    found.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as new:
        words = [new, str(CORPUS / name), f"-max_total_time={seconds}", f"-seed={seed}",
                 f"-artifact_prefix={found}/{name}-", *_LIMITS]
        # Beside its own limit one for hangs that libFuzzer can't end.
        done = subprocess.run([sys.executable, __file__, "--here", name, *words], capture_output=True, text=True,
                              errors="replace", timeout=seconds + 300, check=False)
    counted = [line.split()[-1] for line in done.stderr.splitlines() if "number_of_executed_units" in line]
    print(f"{name}: {'nothing' if done.returncode == 0 else 'FOUND SOMETHING'} in {(counted or ['?'])[-1]} runs",
          flush=True)
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-40:]), flush=True)
    return done.returncode == 0


def main() -> int:
    """Fuzz the targets that are named, all without any."""
    if sys.argv[1:2] == ["--here"]:
        fuzz_here(sys.argv[2], sys.argv[3:])
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install -e '.[fuzz]'", file=sys.stderr)
        return 69
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--seconds", type=int, default=12, help="of each target")
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--found", type=Path, default=Path("runs/fuzz"))
    words.add_argument("names", nargs="*")
    given = words.parse_args()
    names = given.names or sorted(path.name for path in CORPUS.iterdir())
    clean = [fuzz_apart(name, given.seconds, given.seed, given.found) for name in names]
    return int(not all(clean))


if __name__ == "__main__":
    sys.exit(main())
