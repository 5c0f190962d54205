"""A private SLURM cluster of one machine on loopback, with its own ports, key and folder; any user can run it."""

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

# cred_expire: a requeued job waits for it, by default 2 minutes. KillWait: the time between TERM and KILL.
# ReturnToService: a node that a test sets down stays down until the test resumes it.
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


def find_program(name: str) -> str | None:
    """Return the path of a program of SLURM or munge, also of daemons, which are not on the PATH of users."""
    return shutil.which(name) or shutil.which(name, path=os.pathsep.join(_SBIN))


def find_missing_programs() -> list[str]:
    """Return the programs that are not installed."""
    return [name for name in PROGRAMS if find_program(name) is None]


@dataclass(frozen=True)
class Task:
    """A job or a task of an array, as reported by SLURM."""

    state: str
    code: int
    restarts: int
    reason: str


@dataclass
class Cluster:
    """A running SLURM cluster; it writes only to `folder`."""

    folder: Path
    cpus: int = 4
    env: dict[str, str] = field(default_factory=dict)
    _keeper: subprocess.Popen | None = None

    @property
    def node(self) -> str:
        """Return the name of the only node."""
        return socket.gethostname().split(".")[0]

    def start(self) -> None:
        """Start the daemons and wait for the node. Raises RuntimeError with their logs if it does not come up."""
        # munged needs a key that only its user can read, and a socket that everybody can reach.
        self.folder.chmod(0o755)
        for name in ("munge", "state", "spool", "log"):
            (self.folder / name).mkdir()
        (self.folder / "munge").chmod(0o711)
        key = self.folder / "munge" / "key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        conf = self.folder / "slurm.conf"
        conf.write_text(_CONF.format(folder=self.folder, host=self.node, user=getpass.getuser(), cpus=self.cpus,
                                     ports=_find_free_ports(2)))
        self.env["SLURM_CONF"] = str(conf)
        self._keeper = subprocess.Popen([sys.executable, KEEPER, self.folder, *self._build_daemon_arguments()],
                                        stdin=subprocess.PIPE)
        try:
            wait_until(lambda: self.run_program("sinfo", "-h", "-o", "%T", check=False).strip() == "idle", 30)
        except TimeoutError:
            logs = [f"{path.name}: {path.read_text(errors='replace')[-500:]}" for path in self.folder.glob("log/*")]
            self.stop()
            raise RuntimeError("SLURM did not come up\n" + "\n".join(logs)) from None

    def _build_daemon_arguments(self) -> list[str]:
        munge, log, conf = self.folder / "munge", self.folder / "log", self.env["SLURM_CONF"]
        private = [f"--{name}={munge / file}" for name, file in (
            ("key-file", "key"), ("socket", "socket"), ("pid-file", "pid"), ("log-file", "log"), ("seed-file", "seed"))]
        commands = (["munged", "--foreground", *private], ["slurmctld", "-D", "-c", "-f", conf],
                    ["slurmd", "-D", "-f", conf])
        arguments: list[str] = []
        for name, *rest in commands:
            arguments += ["--", str(log / f"{name}.out"), find_program(name) or name, *rest]
        return arguments[1:]

    def stop(self) -> None:
        """Stop the daemons and all jobs, and remove the folder."""
        if self._keeper is not None:
            self._keeper.stdin.close()
            self._keeper.wait(timeout=30)
            self._keeper = None

    def run_program(self, name: str | Path, *arguments: object, env: Mapping[str, str] | None = None,
                    cwd: Path | None = None, check: bool = True) -> str:
        """Run a program in this cluster, and return its stdout."""
        # Without the variables of a SLURM job in which the tests themselves may run.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH"))}
        done = subprocess.run([find_program(str(name)) or name, *map(str, arguments)], cwd=cwd, capture_output=True,
                              text=True,
                              env={**environment, **self.env, **(env or {})}, stdin=subprocess.DEVNULL, timeout=60)
        assert not (check and done.returncode), f"{name} {' '.join(map(str, arguments))}: {done.stderr}"
        return done.stdout

    def query_tasks(self, job: str) -> dict[int, Task]:
        """Return the tasks of a job by their number in the array; a job without an array has task 0."""
        output = self.run_program("squeue", "-h", "-r", "-t", "all", "-j", job, "-O", ",".join(
            f"{name}:80" for name in ("arrayTaskID", "state", "exit_code", "restartCnt", "Reason")))
        rows = (line.split() for line in output.splitlines())
        return {0 if number == "N/A" else int(number): Task(state, int(code) >> 8, int(restarts), reason)
                for number, state, code, restarts, reason in rows}

    def wait_for_job(self, job: str, seconds: float = 300) -> dict[int, Task]:
        """Wait until all tasks of a job have ended, and return them."""
        wait_until(lambda: all(task.state in ENDED for task in self.query_tasks(job).values()), seconds)
        return self.query_tasks(job)

    def find_processes(self, job: str) -> set[int]:
        """Return the ids of the processes of a job, found by their environment."""
        marks = {f"SLURM_{kind}JOB_ID={job}".encode() for kind in ("", "ARRAY_")}
        cluster_mark = f"SLURM_CONF={self.env['SLURM_CONF']}".encode()
        process_ids = set()
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = set(path.read_bytes().split(b"\0"))
            except OSError:
                continue
            if cluster_mark in variables and marks & variables:
                process_ids.add(int(path.parent.name))
        return process_ids


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    """Wait for a condition. Raises TimeoutError if it does not become true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s")
        time.sleep(0.1)


def _find_free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for free_socket in sockets:
            free_socket.bind(("127.0.0.1", 0))
        return [free_socket.getsockname()[1] for free_socket in sockets]
    finally:
        for free_socket in sockets:
            free_socket.close()
