"""The private SLURM cluster itself: it leaves nothing behind, however the tests end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TESTS
from slurm.cluster import Cluster, wait_until

OWNER_SCRIPT = """
import sys, time
from pathlib import Path
from slurm.cluster import Cluster
cluster = Cluster(Path(sys.argv[1]))
cluster.start()
options = ("--parsable", "--output=/dev/null", "--wrap", "trap '' TERM; sleep 600 & sleep 600")
job = cluster.run_program("sbatch", *options).strip()
while not cluster.find_processes(job):
    time.sleep(0.1)
print(job, flush=True)
time.sleep(600)
"""


def find_processes_of(folder: Path) -> set[int]:
    """Return the ids of the processes with a folder in their arguments or environment."""
    process_ids = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in text:
            process_ids.add(int(path.name))
    return process_ids


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_cluster_of_killed_tests_leaves_nothing_behind(cluster: Cluster, number: signal.Signals) -> None:
    folder = cluster.folder / f"second-{number.name}"
    folder.mkdir()
    owner = subprocess.Popen([sys.executable, "-c", OWNER_SCRIPT, folder], stdout=subprocess.PIPE, text=True,
                             env={"PYTHONPATH": str(TESTS), "PATH": cluster.env["PATH"]})
    try:
        assert owner.stdout.readline().strip() == "1"
        assert len(find_processes_of(folder)) > 4, "the owner, its keeper, three daemons and a job"
        owner.send_signal(number)
        assert owner.wait(timeout=10) == -number
        wait_until(lambda: not find_processes_of(folder), 60)
        assert not folder.exists()
    finally:
        owner.kill()
        owner.stdout.close()
