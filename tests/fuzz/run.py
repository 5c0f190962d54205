"""Fuzz every reader with atheris, guided by coverage: `python tests/fuzz/run.py [--seconds 12] [--jobs 2] [NAME...]`.

Each target runs in its own process, starting from its files in tests/fuzz/corpus: a crash of a C library, a hang of 20
seconds or more than 4 GB end only that process. Findings are written to the folder `--found`; fix them and add them to
the corpus. Exits with 1 if there are findings, and with 69 if atheris is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
sys.path[:0] = [str(FUZZ.parents[1]), str(FUZZ.parent)]
CORPUS = FUZZ / "corpus"
_LIMITS = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=20000", "-print_final_stats=1")


def fuzz_in_process(name: str, words: list[str]) -> None:
    """Fuzz one target in this process; `words` are arguments of libFuzzer."""
    import atheris
    with atheris.instrument_imports(include=["stages", "wsss_cli", "tarfile", "tomllib"]):
        from fuzz.targets import TARGETS
    from stages.errors import WsssError
    read = TARGETS[name]

    def fuzz_once(data: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            try:
                read(data, Path(folder))
            except WsssError as error:
                assert "\n" not in str(error), "the message has several lines"

    with tempfile.TemporaryDirectory() as parent:
        atheris.Setup([sys.argv[0], *words], fuzz_once)
        atheris.Fuzz()


def fuzz_in_subprocess(name: str, seconds: int, seed: int, findings: Path) -> bool:
    """Fuzz one target in its own process, print the result, and return whether there are no findings."""
    findings.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as new_corpus:
        words = [new_corpus, str(CORPUS / name), f"-max_total_time={seconds}", f"-seed={seed}",
                 f"-artifact_prefix={findings}/{name}-", *_LIMITS]
        # A second limit, for hangs that libFuzzer can't end.
        process = subprocess.run([sys.executable, __file__, "--here", name, *words], capture_output=True, text=True,
                                 errors="replace", timeout=seconds + 300, check=False)
    unit_counts = [line.split()[-1] for line in process.stderr.splitlines() if "number_of_executed_units" in line]
    print(f"{name}: {'no findings' if process.returncode == 0 else 'FINDINGS'} in {(unit_counts or ['?'])[-1]} runs",
          flush=True)
    if process.returncode:
        print("\n".join(process.stderr.splitlines()[-40:]), flush=True)
    return process.returncode == 0


def main() -> int:
    """Fuzz the given targets, or all of them."""
    if sys.argv[1:2] == ["--here"]:
        fuzz_in_process(sys.argv[2], sys.argv[3:])
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("run.py: atheris is not installed. Run `pip install -e '.[fuzz]'`.", file=sys.stderr)
        return 69
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=12, help="Seconds per target.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="Number of targets at a time.")
    parser.add_argument("--found", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    names = arguments.names or sorted(path.name for path in CORPUS.iterdir())
    with ThreadPoolExecutor(arguments.jobs) as pool:
        clean = pool.map(
            lambda name: fuzz_in_subprocess(name, arguments.seconds, arguments.seed, arguments.found), names)
    return int(not all(clean))


if __name__ == "__main__":
    sys.exit(main())
