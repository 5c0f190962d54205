"""Runs commands in forks of one process that has everything imported: 0.1 s a command instead of 5 s.

`python server.py` says {"ready"}, then reads requests as lines of JSON and answers each with a line. {"args", "cwd",
"out", "plan"} runs `wsss ARGS` under a `faults.Plan`; {"go": PID} lets a paused one go on. The answer has "pid" and
"code": negative for a signal, null while the command is paused.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import io
import json
import multiprocessing
import multiprocessing.util
import os
import pkgutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from crash.faults import Plan, Watch, watched

_DIE_WITH_PARENT, _ADOPT = 1, 36  # of prctl


def main() -> None:
    """Answer requests until there are no more."""
    _import_everything()
    import typer.main

    from wsss_cli.app import app
    # Built once: typer looks at 1,500 options, which takes longer than most of the commands here.
    wsss = typer.main.get_command(app)
    _warm(wsss)
    gc.collect()
    gc.freeze()
    print(json.dumps({"ready": True}), flush=True)
    # Workers of a killed command become children of this process, so that it can wait until they are gone.
    ctypes.CDLL(None).prctl(_ADOPT, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "go" in request:
            pid = request["go"]
            os.kill(pid, signal.SIGCONT)
        else:
            pid = os.fork()
            if pid == 0:
                _child(request, wsss)
        print(json.dumps({"pid": pid, "code": _ended(pid)}), flush=True)


def _import_everything() -> None:
    import open_clip  # noqa: F401
    import timm  # noqa: F401

    import stages
    import wsss_cli
    for package in (stages, wsss_cli):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    with contextlib.suppress(ImportError):
        import pydensecrf.densecrf  # noqa: F401


def _warm(wsss: Any) -> None:
    """Have what is imported late imported: by Pillow, and by typer when it takes a command line apart."""
    from PIL import Image
    Image.preinit()
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        wsss(["eval", "nothing"], prog_name="wsss")


def _ended(pid: int) -> int | None:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return None
    with contextlib.suppress(ChildProcessError):
        while True:  # what the command left behind, which its death has ended
            found, _ = os.waitpid(-pid, 0)
            if not found:
                break
    return os.waitstatus_to_exitcode(status)


def _child(request: dict[str, Any], wsss: Any) -> None:
    """Be the command."""
    code = 70
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        os.chdir(request["cwd"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, suffix in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{request['out']}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), number)
        plan = Plan(**request["plan"])
        if request.get("seconds"):
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        if request.get("forks"):
            _fork_workers()
        watch = watched(plan)
        _count_what_is_computed(watch)
        code = _run(wsss, request["args"])
        multiprocessing.util._exit_function()  # as an end that is no os._exit does: it lets go of the queues
        sys.stdout.flush()
        sys.stderr.flush()
        watch.note("end", unseen=watch.unseen())
    finally:
        os._exit(code)


def _run(wsss: Any, args: list[str]) -> int:
    sys.argv = ["wsss", *args]
    try:
        wsss(args, prog_name="wsss")
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def _fork_workers() -> None:
    """Let worker processes be forks: with everything imported they start at once."""
    real = multiprocessing.get_context
    multiprocessing.get_context = lambda _method=None: real("fork")  # type: ignore[assignment]


def _count_what_is_computed(watch: Watch) -> None:
    """Note the images of every batch, the numbers of the steps of a training, and the images that get labels."""
    from stages.flow import make_part, prepared
    from stages.training.loop import _Training

    def noted(owner: Any, name: str, what: Callable[..., list]) -> None:
        real = getattr(owner, name)

        def call(*args: Any, **more: Any) -> Any:
            watch.note("computed", items=what(*args))
            return real(*args, **more)

        setattr(owner, name, call)

    noted(make_part, "_batch_items", lambda loaded, _: [item_id for item_id, _ in loaded])
    noted(prepared, "_item", lambda _, item_id: [item_id])
    noted(_Training, "_step", lambda _self, step, _samples: [step])


if __name__ == "__main__":
    main()
