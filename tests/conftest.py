"""What every test may ask for: reference values, the command line as a user runs it, one thread."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
# The project first, so that `stages` is the package and not the folder of tests of that name.
sys.path[:0] = [str(ROOT), str(TESTS)]

from command_server import CommandServer  # noqa: E402
from waiting import PATIENCE  # noqa: E402

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
for _name, _value in ONE_THREAD.items():
    os.environ.setdefault(_name, _value)
# What the caller's shell says of images, say, is not meant for the tests.
for _name in [name for name in os.environ if name.startswith("WSSS_") and name != "WSSS_ORACLES"]:
    del os.environ[_name]
# What wsss keeps of words between runs stays out of the caller's home, also in processes that tests start: this is no
# folder. Other libraries find what they keep where it was.
_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
os.environ.setdefault("HF_HOME", str(_CACHES / "huggingface"))
os.environ.setdefault("TORCH_HOME", str(_CACHES / "torch"))
os.environ.setdefault("MPLCONFIGDIR", str(_CACHES / "matplotlib"))  # the list of fonts, which takes seconds to make
os.environ["XDG_CACHE_HOME"] = str(Path(os.devnull) / "none")


class Reference:
    """Values that the published systems' own functions gave, as arrays by name.

    Read below $WSSS_ORACLES when that is set, else from the copies in tests/reference.
    """

    def __init__(self, folder: Path, *, complete: bool) -> None:
        self.folder = folder
        self.complete = complete

    def __call__(self, name: str) -> Mapping[str, np.ndarray]:
        """Return the arrays of `name`; a copy that is too large to be committed skips the test."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            told = f"no reference values {path}"
            pytest.fail(told) if self.complete else pytest.skip(f"{told}; set WSSS_ORACLES")
        with np.load(path) as arrays:
            return {key: arrays[key] for key in arrays.files}

    def file(self, name: str) -> Path:
        """Return the path of a file that is no array; one that is not there skips the test."""
        path = self.folder / name
        if not path.is_file():
            pytest.skip(f"no reference file {path}; set WSSS_ORACLES")
        return path

    def cases(self, pattern: str) -> list[str]:
        """Return the sorted names that match a pattern: `cases("cam-methods/eval_miou*")`."""
        names = (path.relative_to(self.folder).with_suffix("").as_posix() for path in self.folder.rglob("*.npz"))
        return sorted(name for name in names if fnmatchcase(name, pattern))


@pytest.fixture(scope="session")
def reference() -> Reference:
    """Return the reference values: `reference("cam-methods/eval_miou")` is a mapping of arrays."""
    given = os.environ.get("WSSS_ORACLES")
    return Reference(Path(given) if given else TESTS / "reference", complete=bool(given))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Keep torch at one thread, where a test has it loaded: workers of pytest share few cores."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


@dataclass(frozen=True)
class Result:
    """How a command ended: exit code (negative: the signal), standard output, standard error."""

    code: int
    out: str
    err: str


@dataclass
class CommandLine:
    """`wsss` in a process of its own, in an empty folder."""

    cwd: Path
    started: list[subprocess.Popen] = field(default_factory=list)
    _servers: ClassVar[list[CommandServer]] = []  # the one that all tests of this process share, once it is needed

    def __call__(self, *args: object, input: str | None = None, env: Mapping[str, str] | None = None,
                 timeout: float = PATIENCE) -> Result:
        """Runs `wsss ARGS` to its end; `input` is its standard input, nothing when None.

        A fork of a process with everything imported runs it; with `env`, Python itself is started.
        """
        if env is None and sys.platform == "linux":
            if not self._servers:
                self._servers.append(CommandServer(self._environment(None)))
            words = self._words(args)[3:]
            return Result(*self._servers[0].run(words, self.cwd, self._environment(None), input, timeout))
        fed: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        done = subprocess.run(self._words(args), cwd=self.cwd, env=self._environment(env), capture_output=True,
                              encoding="utf-8", errors="replace", timeout=timeout, check=False, **fed)
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *args: object, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen:
        """Start `wsss ARGS` in a process group of its own, and kill that when the test ends.

        Standard output and error are text pipes and standard input is empty, unless `options` say otherwise.
        """
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(self._words(args), cwd=self.cwd, env=self._environment(env), encoding="utf-8",
                                   errors="replace", start_new_session=True, **options)
        self.started.append(process)
        return process

    def end(self) -> None:
        """Kill what still runs of what was started, workers included."""
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            process.wait(timeout=PATIENCE)

    @staticmethod
    def _words(args: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "wsss_cli", *map(str, args)]

    @staticmethod
    def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WSSS_")}
        return {**kept, **ONE_THREAD, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TERM": "dumb",
                "COLUMNS": "120", **(more or {})}


@pytest.fixture
def wsss(tmp_path: Path) -> Iterator[CommandLine]:
    """Return the command line: `wsss("eval", "x.h5").code`, run in `tmp_path`."""
    line = CommandLine(tmp_path)
    yield line
    line.end()
