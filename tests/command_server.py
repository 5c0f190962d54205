"""Run `wsss` commands as forks of one process that has imported everything: 0.2 s a command instead of 3 to 5 s.

A fork behaves like a process that a shell starts: its own working directory, environment, standard streams, signals,
exit code. What it can't show is what importing does (how long, which packages, which modules the folder shadows), and
what several processes at once do; tests of that start real ones with `CommandLine.start` or `env`.

`python command_server.py` prints a line when it is ready, then reads requests as lines of JSON, {"args", "cwd", "env",
"input", "output", "error"}, and answers each with {"code"}, negative for a signal.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import multiprocessing
import os
import select
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class CommandServer:
    """The process that forks, seen from the tests."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Start the process; its libraries read `environment` once, when they are imported."""
        self._folder = tempfile.TemporaryDirectory(prefix="wsss-commands-")
        self._process = subprocess.Popen([sys.executable, __file__], env=dict(environment), stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True)
        atexit.register(self.end)
        self._read_answer(600)

    def run(self, args: Sequence[str], cwd: Path, environment: Mapping[str, str], input: str | None,
            timeout: float) -> tuple[int, str, str]:
        """Run `wsss ARGS` to its end; return its exit code, standard output and standard error.

        Standard input is a file with the text `input`, or the null device when it is None.
        """
        files = {name: Path(self._folder.name) / name for name in ("input", "output", "error")}
        if input is None:
            files["input"] = Path(os.devnull)
        else:
            files["input"].write_text(input, encoding="utf-8")
        request = {"args": list(args), "cwd": str(cwd), "env": dict(environment),
                   **{name: str(path) for name, path in files.items()}}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = self._read_answer(timeout)["code"]
        output, error = (files[name].read_text(encoding="utf-8", errors="replace") for name in ("output", "error"))
        return code, output, error

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _read_answer(self, timeout: float) -> dict[str, Any]:
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            self._process.kill()
            raise TimeoutError(f"the command did not end within {timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that runs the commands of the tests has ended")
        return json.loads(line)


@contextlib.contextmanager
def forked_workers() -> Iterator[None]:
    """Let worker processes be forks of this process, instead of starting Python and importing torch anew."""
    get_context = multiprocessing.get_context
    multiprocessing.get_context = lambda _method=None: get_context("fork")
    try:
        yield
    finally:
        multiprocessing.get_context = get_context


def _serve() -> None:
    import h5py  # noqa: F401
    import torch  # noqa: F401
    from PIL import Image

    import wsss_cli.__main__ as command_line
    from stages import STAGES
    for stage in STAGES:  # the command line imports them when they are used
        importlib.import_module(f"wsss_cli.{stage.folder}")
    Image.preinit()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        process_id = os.fork()
        if process_id == 0:
            _run_command(command_line.main, json.loads(line))
        _, status = os.waitpid(process_id, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), flush=True)


def _run_command(main: Any, request: dict[str, Any]) -> None:
    """Become the command, as far as a fork can, and exit with its code."""
    code: Any = 1
    try:
        os.setsid()
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        write = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        for number, (name, flags) in enumerate((("input", os.O_RDONLY), ("output", write), ("error", write))):
            opened = os.open(request[name], flags)
            os.dup2(opened, number)
            os.close(opened)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.argv = ["wsss", *request["args"]]
        with forked_workers():
            code = _run_main(main)
        threading._shutdown()  # as the interpreter does at its end
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _run_main(main: Any) -> int:
    try:
        main()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    _serve()
