"""A private SLURM of one machine on loopback: its own ports, key and folder; any user can run it."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "sinfo")
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
KEEPER = Path(__file__).with_name("keeper.py")
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"}
_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")

# cred_expire: a requeued job waits for it, 2 minutes by default. KillWait is what is between TERM and KILL.
# ReturnToService: a node that a test sets down stays so until the test resumes it.
_CONF = """\
ClusterName=wsss
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=0,bf_interval=2
PriorityType=priority/basic
SlurmdParameters=config_overrides
MailProg=/bin/true
ReturnToService=1
JobRequeue=1
KillWait=5
MinJobAge=3600
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=65536 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def program(name: str) -> str | None:
    """Return the path of a program of SLURM or munge; daemons lie where users have no PATH to."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SBIN))


def lacking() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if program(name) is None]


@dataclass(frozen=True)
class Task:
    """A job, or a task of an array, as SLURM tells it."""

    state: str
    code: int
    restarts: int
    reason: str


@dataclass
class Cluster:
    """The running SLURM; everything that it writes lies in `folder`."""

    folder: Path
    cpus: int = 4
    env: dict[str, str] = field(default_factory=dict)
    _keeper: subprocess.Popen | None = None

    @property
    def node(self) -> str:
        """The name of its one node."""
        return socket.gethostname().split(".")[0]

    def start(self) -> None:
        """Start the daemons and wait for the node; RuntimeError with their logs when it won't come."""
        # munged wants a key that only its user reads, and a socket that everybody reaches.
        self.folder.chmod(0o755)
        for below in ("munge", "state", "spool", "log"):
            (self.folder / below).mkdir()
        (self.folder / "munge").chmod(0o711)
        key = self.folder / "munge" / "key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        conf = self.folder / "slurm.conf"
        conf.write_text(_CONF.format(folder=self.folder, host=self.node, user=getpass.getuser(), cpus=self.cpus,
                                     ports=_free_ports(2)))
        self.env["SLURM_CONF"] = str(conf)
        self._keeper = subprocess.Popen([sys.executable, KEEPER, self.folder, *self._daemons()], stdin=subprocess.PIPE)
        try:
            until(lambda: self.call("sinfo", "-h", "-o", "%T", check=False).strip() == "idle", 30)
        except TimeoutError:
            logs = [f"{path.name}: {path.read_text(errors='replace')[-500:]}" for path in self.folder.glob("log/*")]
            self.end()
            raise RuntimeError("SLURM did not come up\n" + "\n".join(logs)) from None

    def _daemons(self) -> list[str]:
        munge, log, conf = self.folder / "munge", self.folder / "log", self.env["SLURM_CONF"]
        private = [f"--{name}={munge / what}" for name, what in (
            ("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))]
        commands = (["munged", "--foreground", *private], ["slurmctld", "-D", "-c", "-f", conf],
                    ["slurmd", "-D", "-f", conf])
        words: list[str] = []
        for name, *rest in commands:
            words += ["--", str(log / f"{name}.out"), program(name) or name, *rest]
        return words[1:]

    def end(self) -> None:
        """End the daemons and all jobs, and remove the folder."""
        if self._keeper is not None:
            self._keeper.stdin.close()
            self._keeper.wait(timeout=30)
            self._keeper = None

    def call(self, name: str | Path, *words: object, env: Mapping[str, str] | None = None, cwd: Path | None = None,
             check: bool = True) -> str:
        """Run a program with this SLURM as its own, and return its standard output."""
        # Nothing of a SLURM that the tests themselves may run in.
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        done = subprocess.run([program(str(name)) or name, *map(str, words)], cwd=cwd, capture_output=True, text=True,
                              env={**outer, **self.env, **(env or {})}, stdin=subprocess.DEVNULL, timeout=60)
        assert not (check and done.returncode), f"{name} {' '.join(map(str, words))}: {done.stderr}"
        return done.stdout

    def tasks(self, job: str) -> dict[int, Task]:
        """Return the tasks of a job by their number in the array; a job that is no array has task 0."""
        told = self.call("squeue", "-h", "-r", "-t", "all", "-j", job, "-O", ",".join(
            f"{name}:80" for name in ("arrayTaskID", "state", "exit_code", "restartCnt", "Reason")))
        rows = (line.split() for line in told.splitlines())
        return {0 if number == "N/A" else int(number): Task(state, int(code) >> 8, int(restarts), reason)
                for number, state, code, restarts, reason in rows}

    def wait(self, job: str, seconds: float = 300) -> dict[int, Task]:
        """Wait until all tasks of a job have ended, and return them."""
        until(lambda: all(task.state in ENDED for task in self.tasks(job).values()), seconds)
        return self.tasks(job)

    def processes(self, job: str) -> set[int]:
        """Return the processes that belong to a job, by their environment."""
        marks = {f"SLURM_{kind}JOB_ID={job}".encode() for kind in ("", "ARRAY_")}
        here = f"SLURM_CONF={self.env['SLURM_CONF']}".encode()
        found = set()
        for place in Path("/proc").glob("[0-9]*/environ"):
            try:
                given = set(place.read_bytes().split(b"\0"))
            except OSError:
                continue
            if here in given and marks & given:
                found.add(int(place.parent.name))
        return found


def until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition; TimeoutError when it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
