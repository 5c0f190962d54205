"""The private SLURM itself: nothing of it is left, however its tests end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TESTS
from slurm.cluster import Cluster, until

STARTED = """
import sys, time
from pathlib import Path
from slurm.cluster import Cluster
own = Cluster(Path(sys.argv[1]))
own.start()
job = own.call("sbatch", "--parsable", "--output=/dev/null", "--wrap", "trap '' TERM; sleep 600 & sleep 600").strip()
while not own.processes(job):
    time.sleep(0.1)
print(job, flush=True)
time.sleep(600)
"""


def of_folder(folder: Path) -> set[int]:
    """Return the processes that name a folder in their words or their environment."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            told = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        except OSError:
            continue
        if str(folder).encode() in told:
            found.add(int(place.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_of_a_cluster_whose_tests_were_killed(cluster: Cluster, number: signal.Signals) -> None:
    folder = cluster.folder / f"second-{number.name}"
    folder.mkdir()
    owner = subprocess.Popen([sys.executable, "-c", STARTED, folder], stdout=subprocess.PIPE, text=True,
                             env={"PYTHONPATH": str(TESTS), "PATH": cluster.env["PATH"]})
    try:
        assert owner.stdout.readline().strip() == "1"
        assert len(of_folder(folder)) > 4, "the owner, its keeper, three daemons and a job"
        owner.send_signal(number)
        assert owner.wait(timeout=10) == -number
        until(lambda: not of_folder(folder), 60)
        assert not folder.exists()
    finally:
        owner.kill()
        owner.stdout.close()
