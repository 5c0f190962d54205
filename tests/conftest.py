"""Fixtures for all tests: reference values, the command line as a user runs it, and a single thread."""

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
# The project comes first, so that `stages` is the package and not a folder of tests of that name.
sys.path[:0] = [str(ROOT), str(TESTS)]

from command_server import CommandServer  # noqa: E402
from waiting import PATIENCE  # noqa: E402

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
for _name, _value in ONE_THREAD.items():
    os.environ.setdefault(_name, _value)
# Options in the environment of the user, such as WSSS_ROOT, must not affect the tests.
for _name in [name for name in os.environ if name.startswith("WSSS_") and name != "WSSS_ORACLES"]:
    del os.environ[_name]
# The word vectors that wsss caches must not go to the home folder of the user, also from processes that tests start:
# the path set below can't be created. Other libraries still find their caches.
_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
os.environ.setdefault("HF_HOME", str(_CACHES / "huggingface"))
os.environ.setdefault("TORCH_HOME", str(_CACHES / "torch"))
os.environ.setdefault("MPLCONFIGDIR", str(_CACHES / "matplotlib"))  # the font list, which takes seconds to build
os.environ["XDG_CACHE_HOME"] = str(Path(os.devnull) / "none")


class Reference:
    """Results of the published implementations, as arrays by name.

    Read below $WSSS_ORACLES if it is set, otherwise from the copies in tests/reference.
    """

    def __init__(self, folder: Path, *, complete: bool) -> None:
        self.folder = folder
        self.complete = complete

    def __call__(self, name: str) -> Mapping[str, np.ndarray]:
        """Return the arrays of `name`, or skip the test if they are too large to be in the repository."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            message = f"no reference values {path}"
            pytest.fail(message) if self.complete else pytest.skip(f"{message}; set WSSS_ORACLES")
        with np.load(path) as arrays:
            return {key: arrays[key] for key in arrays.files}

    def file(self, name: str) -> Path:
        """Return the path of a file that is not an array, or skip the test if it does not exist."""
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
    folder = os.environ.get("WSSS_ORACLES")
    return Reference(Path(folder) if folder else TESTS / "reference", complete=bool(folder))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Limit torch to one thread if it is loaded, because the workers of pytest share few cores."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


@dataclass(frozen=True)
class Result:
    """The result of a command: exit code (negative for a signal), stdout and stderr."""

    code: int
    out: str
    err: str


@dataclass
class CommandLine:
    """The command line in its own process, in an empty folder."""

    cwd: Path
    started: list[subprocess.Popen] = field(default_factory=list)
    _servers: ClassVar[list[CommandServer]] = []  # at most one, shared by all tests of this process

    def __call__(self, *args: object, input: str | None = None, env: Mapping[str, str] | None = None,
                 timeout: float = PATIENCE) -> Result:
        """Run `wsss ARGS` and return its result; `input` is its stdin, empty if None.

        The command runs in a fork of a process that has imported everything, or with `env` in a new Python process.
        """
        if env is None and sys.platform == "linux":
            if not self._servers:
                self._servers.append(CommandServer(self._environment(None)))
            arguments = self._words(args)[3:]
            return Result(*self._servers[0].run(arguments, self.cwd, self._environment(None), input, timeout))
        stdin: dict[str, Any] = {"stdin": subprocess.DEVNULL} if input is None else {"input": input}
        done = subprocess.run(self._words(args), cwd=self.cwd, env=self._environment(env), capture_output=True,
                              encoding="utf-8", errors="replace", timeout=timeout, check=False, **stdin)
        return Result(done.returncode, done.stdout, done.stderr)

    def start(self, *args: object, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen:
        """Start `wsss ARGS` in its own process group, which is killed at the end of the test.

        Stdout and stderr are text pipes and stdin is empty, unless `options` change that.
        """
        options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(self._words(args), cwd=self.cwd, env=self._environment(env), encoding="utf-8",
                                   errors="replace", start_new_session=True, **options)
        self.started.append(process)
        return process

    def stop(self) -> None:
        """Kill all started processes that still run, with their workers."""
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
    def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WSSS_")}
        return {**inherited, **ONE_THREAD, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TERM": "dumb",
                "COLUMNS": "120", **(extra or {})}


@pytest.fixture
def wsss(tmp_path: Path) -> Iterator[CommandLine]:
    """Return the command line, which runs in `tmp_path`: `wsss("eval", "x.h5").code`."""
    command_line = CommandLine(tmp_path)
    yield command_line
    command_line.stop()
