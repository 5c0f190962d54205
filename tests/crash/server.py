"""Run commands in forks of a process that has imported everything: 0.1 s per command instead of 5 s.

`python server.py` prints {"ready"}, then reads requests as lines of JSON and answers each with a line. {"args", "cwd",
"out", "plan"} runs `wsss ARGS` under a `faults.Plan`; {"go": PID} continues a paused command. The answer has "pid" and
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

from command_server import forked_workers
from crash.faults import Plan, Watch, watch_process

_DIE_WITH_PARENT, _ADOPT = 1, 36  # of prctl


def main() -> None:
    """Answer requests until stdin ends."""
    _import_everything()
    import typer.main

    from wsss_cli.app import app
    # Built once: typer processes 1,500 options, which takes longer than most of these commands.
    wsss: Any = typer.main.get_command(app)
    list(wsss.commands.values())  # each is built when it is first used
    warm_up(wsss)
    gc.collect()
    gc.freeze()
    print(json.dumps({"ready": True}), flush=True)
    # Adopt the workers of a killed command, so that this process can wait until they are gone.
    ctypes.CDLL(None).prctl(_ADOPT, 1)
    for line in sys.stdin:
        request = json.loads(line)
        if "go" in request:
            pid = request["go"]
            os.kill(pid, signal.SIGCONT)
        else:
            pid = os.fork()
            if pid == 0:
                run_child(request, wsss)
        print(json.dumps({"pid": pid, "code": wait_for_command(pid)}), flush=True)


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


def warm_up(wsss: Any) -> None:
    """Trigger the late imports of Pillow, and those of typer when it parses arguments."""
    from PIL import Image
    Image.preinit()
    with contextlib.suppress(SystemExit), contextlib.redirect_stderr(io.StringIO()):
        wsss(["eval", "nothing"], prog_name="wsss")


def wait_for_command(pid: int) -> int | None:
    _, status = os.waitpid(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        return None
    with contextlib.suppress(ChildProcessError):
        while True:  # the orphaned workers of the command, which end with it
            child_pid, _ = os.waitpid(-pid, 0)
            if not child_pid:
                break
    return os.waitstatus_to_exitcode(status)


def run_child(request: dict[str, Any], wsss: Any) -> None:
    """Run the command in the forked child, and exit."""
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
        watch = watch_process(plan)
        record_computations(watch)
        with forked_workers() if request.get("forks") else contextlib.nullcontext():
            code = run_wsss(wsss, request["args"])
        multiprocessing.util._exit_function()  # as at a normal exit: it releases the queues
        sys.stdout.flush()
        sys.stderr.flush()
        watch.record("end", unseen=watch.count_unseen_bytes())
    finally:
        os._exit(code)


def run_wsss(wsss: Any, args: list[str]) -> int:
    sys.argv = ["wsss", *args]
    try:
        wsss(args, prog_name="wsss")
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0


def record_computations(watch: Watch) -> None:
    """Record the images of every batch, the steps of a training, and the images that get labels."""
    from stages.flow import compute_targets, make_part
    from stages.training.loop import _Training

    def record_calls(owner: Any, name: str, describe_items: Callable[..., list]) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            watch.record("computed", items=describe_items(*args))
            return original(*args, **kwargs)

        setattr(owner, name, call)

    record_calls(make_part, "compute_batch", lambda loaded, _: [item_id for item_id, _ in loaded])
    record_calls(compute_targets, "_compute_item", lambda _, item_id: [item_id])
    record_calls(_Training, "_run_step", lambda _self, step, _samples: [step])


if __name__ == "__main__":
    main()
