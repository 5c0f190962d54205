"""Run `wsss` commands with injected faults through the fork server, and report how they ended."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from conftest import ONE_THREAD, ROOT, TESTS
from crash.faults import Plan

_SECONDS = 300  # until a request counts as hanging; it takes 0.1 s, the start 5 s, on an idle machine


@dataclass(frozen=True)
class Outcome:
    """How a command ended (`code` None: it is paused), its output, and the calls that it made."""

    code: int | None
    out: str
    err: str
    notes: tuple[dict[str, Any], ...]
    pid: int
    name: str

    @cached_property
    def calls(self) -> list[dict[str, Any]]:
        """Return the calls that change the disk, in order."""
        # Two processes may get their numbers in one order and record them in the other.
        return sorted((note for note in self.notes if "number" in note), key=lambda call: call["number"])

    @cached_property
    def computed(self) -> list[list[Any]]:
        """Return the computed items of each batch."""
        return [note["items"] for note in self.notes if note["call"] == "computed"]


class Server:
    """Runs commands in the folder `work` of `root`; their inputs are in its folder `inputs`."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "work"
        self._runs = 0
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("WSSS_")}
        path = os.pathsep.join(map(str, (ROOT, TESTS / "crash" / "spawned")))
        environment = {**inherited, **ONE_THREAD, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TERM": "dumb",
                       "COLUMNS": "120", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen([sys.executable, str(TESTS / "crash" / "server.py")], env=environment,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
                                         start_new_session=True)
        self._read_answer("start")

    @property
    def next_notes(self) -> Path:
        """Return the path to which the next run records its calls."""
        return self.root / f"run-{self._runs + 1}.jsonl"

    def clear_work(self) -> None:
        """Empty the working folder."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def run(self, args: Sequence[object], fault: str = "", call_number: int = 0, errno: int = 0, *, seconds: float = 0,
            forks: bool = False) -> Outcome:
        """Run `wsss ARGS` until it ends or pauses, with a fault (see `Plan`), or killed after so many seconds."""
        self._runs += 1
        name = str(self.root / f"run-{self._runs}")
        plan = Plan(str(self.work), name, fault, call_number, errno)
        request = {"args": list(map(str, args)), "cwd": str(self.work), "out": name, "plan": asdict(plan),
                   "forks": forks, "seconds": seconds}
        return self._build_outcome(name, self._send(request))

    def run_ok(self, *args: object) -> Outcome:
        """Run a command that must succeed."""
        outcome = self.run(args)
        assert outcome.code == 0, f"wsss {' '.join(map(str, args))}: {outcome.code}\n{outcome.err}"
        return outcome

    def resume(self, paused: Outcome) -> Outcome:
        """Continue a paused command until it ends."""
        return self._build_outcome(paused.name, self._send({"go": paused.pid}))

    def read_files(self) -> dict[str, bytes]:
        """Return the files in the working folder by relative path, without logs, which contain times."""
        return {str(path.relative_to(self.work)): path.read_bytes() for path in sorted(self.work.rglob("*"))
                if path.is_file() and not path.name.endswith("log.jsonl")}

    def stop(self) -> None:
        """Stop the server, and with it any command that it runs."""
        self._process.stdin.close()
        self._process.kill()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def _send(self, request: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read_answer(request)

    def _read_answer(self, request: object) -> dict[str, Any]:
        assert select.select([self._process.stdout], [], [], _SECONDS)[0], f"no answer within {_SECONDS} s: {request}"
        line = self._process.stdout.readline()
        assert line, f"the server ended at {request}"
        return json.loads(line)

    def _build_outcome(self, name: str, answer: dict[str, Any]) -> Outcome:
        out, err = (Path(f"{name}.{suffix}").read_text() for suffix in ("out", "err"))
        notes_path = Path(f"{name}.jsonl")
        notes = tuple(map(json.loads, notes_path.read_text().splitlines())) if notes_path.exists() else ()
        if answer["code"] is not None:
            for suffix in ("out", "err", "jsonl", "count"):
                Path(f"{name}.{suffix}").unlink(missing_ok=True)
        return Outcome(answer["code"], out, err, notes, answer["pid"], name)
