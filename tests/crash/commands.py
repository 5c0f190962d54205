"""`wsss` commands under a plan of faults: runs them through the fork server and tells how they ended."""

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

_SECONDS = 300  # of what takes a tenth of one, or five to begin with, on an idle machine


@dataclass(frozen=True)
class Ended:
    """How a command ended (`code` None: it is paused), what it printed, and the calls that it made."""

    code: int | None
    out: str
    err: str
    notes: tuple[dict[str, Any], ...]
    pid: int
    name: str

    @cached_property
    def calls(self) -> list[dict[str, Any]]:
        """The calls that change the disk, in their order."""
        # Two processes may get their numbers in one order, and note them in the other.
        return sorted((note for note in self.notes if "number" in note), key=lambda call: call["number"])

    @cached_property
    def computed(self) -> list[list[Any]]:
        """What was computed, batch by batch."""
        return [note["items"] for note in self.notes if note["call"] == "computed"]


class Server:
    """Runs commands in the folder `work` below `place`, which has the inputs beside it."""

    def __init__(self, place: Path) -> None:
        self.place, self.work = place, place / "work"
        self._runs = 0
        kept = {name: value for name, value in os.environ.items() if not name.startswith("WSSS_")}
        path = os.pathsep.join(map(str, (ROOT, TESTS / "crash" / "spawned")))
        environment = {**kept, **ONE_THREAD, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TERM": "dumb",
                       "COLUMNS": "120", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONDONTWRITEBYTECODE": "1"}
        self._process = subprocess.Popen([sys.executable, str(TESTS / "crash" / "server.py")], env=environment,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
                                         start_new_session=True)
        self._heard("the start")

    @property
    def next_notes(self) -> Path:
        """Where the next run notes its calls, for whoever looks on."""
        return self.place / f"run-{self._runs + 1}.jsonl"

    def fresh(self) -> None:
        """Empty the folder of the work."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def run(self, args: Sequence[object], how: str = "", at: int = 0, errno: int = 0, *, seconds: float = 0,
            forks: bool = False) -> Ended:
        """Run `wsss ARGS` with a fault (see `Plan`), or ended after so many seconds, to its end or its pause."""
        self._runs += 1
        name = str(self.place / f"run-{self._runs}")
        plan = Plan(str(self.work), name, how, at, errno)
        request = {"args": list(map(str, args)), "cwd": str(self.work), "out": name, "plan": asdict(plan),
                   "forks": forks, "seconds": seconds}
        return self._ended(name, self._answer(request))

    def good(self, *args: object) -> Ended:
        """Run a command that must end with 0."""
        done = self.run(args)
        assert done.code == 0, f"wsss {' '.join(map(str, args))}: {done.code}\n{done.err}"
        return done

    def go(self, paused: Ended) -> Ended:
        """Let a paused command go on to its end."""
        return self._ended(paused.name, self._answer({"go": paused.pid}))

    def files(self) -> dict[str, bytes]:
        """Return what is below the folder of the work, by relative path; logs have times and are left out."""
        return {str(path.relative_to(self.work)): path.read_bytes() for path in sorted(self.work.rglob("*"))
                if path.is_file() and not path.name.endswith("log.jsonl")}

    def end(self) -> None:
        """End the server, and with it whatever it runs."""
        self._process.stdin.close()
        self._process.kill()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._heard(request)

    def _heard(self, what: object) -> dict[str, Any]:
        assert select.select([self._process.stdout], [], [], _SECONDS)[0], f"no end after {_SECONDS} s: {what}"
        line = self._process.stdout.readline()
        assert line, f"the server ended at {what}"
        return json.loads(line)

    def _ended(self, name: str, answer: dict[str, Any]) -> Ended:
        out, err = (Path(f"{name}.{suffix}").read_text() for suffix in ("out", "err"))
        written = Path(f"{name}.jsonl")
        notes = tuple(map(json.loads, written.read_text().splitlines())) if written.exists() else ()
        if answer["code"] is not None:
            for suffix in ("out", "err", "jsonl", "count"):
                Path(f"{name}.{suffix}").unlink(missing_ok=True)
        return Ended(answer["code"], out, err, notes, answer["pid"], name)
