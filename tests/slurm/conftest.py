"""A private SLURM cluster, and the inputs of its jobs: images, a network, and runs made by one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.runner import SMALL, TRAINING, index_table, run_ok
from conftest import ROOT, CommandLine
from slurm.cluster import PACKAGES, Cluster, find_missing_programs
from tiny_datasets import create_dataset

SCRIPTS = ROOT / "examples" / "slurm"
# The scripts request more than a small machine has.
JOB_OPTIONS = ("--cpus-per-task=1", "--mem=100M")
TASKS = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option with which `make test-slurm` allows the installation."""
    parser.addoption("--install-slurm", action="store_true", help="Install SLURM by apt-get if it is missing.")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Return a running SLURM cluster, or skip the test with the reason."""
    if find_missing_programs() and request.config.getoption("--install-slurm", default=False):
        _install_slurm()
    if find_missing_programs():
        pytest.skip(f"SLURM is missing ({', '.join(find_missing_programs())}); `make test-slurm` installs it as "
                    "root on Debian")
    # Not in tmp_path: munged requires that all folders above its socket are open to everybody, and a short path.
    folder = Path(tempfile.mkdtemp(prefix="wsss-slurm-"))
    # `wsss` and `torchrun` as in an activated environment, with the sources of this repository.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    cluster = Cluster(folder, env={**CommandLine._environment(None), "PATH": path})
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _install_slurm() -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"SLURM can't be installed: that needs root and apt-get install {' '.join(PACKAGES)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (("update", "-qq"), ("install", "-qq", "-y", "--no-install-recommends", *PACKAGES)):
        try:
            done = subprocess.run(["apt-get", *arguments], env=env, capture_output=True, text=True, timeout=180)
        except subprocess.TimeoutExpired as error:
            pytest.skip(f"SLURM can't be installed: {error}")
    if done.returncode:
        pytest.skip(f"SLURM can't be installed: {done.stderr.strip().splitlines()[-1]}")


@dataclass(frozen=True)
class Site:
    """A folder on the cluster: train.h5 of 16 images, cam.safetensors, and serial/, made by one process.

    Runs to compare must have the same depth, because a shard stores the relative path of its index.
    """

    folder: Path
    cluster: Cluster

    def submit(self, script: str, *arguments: object, options: tuple[str, ...] = (), **env: object) -> str:
        """Submit an unchanged job script of examples/slurm, and return the number of the job."""
        environment = {name: str(value) for name, value in env.items()}
        return self.cluster.run_program("sbatch", "--parsable", *JOB_OPTIONS, *options, SCRIPTS / script, *arguments,
                                        cwd=self.folder, env=environment).strip()

    def submit_chain(self, out: str, **env: object) -> list[str]:
        """Submit the unchanged examples/slurm/chain.sh, and return the numbers of its three jobs."""
        environment = {"TASKS": str(TASKS), "SUBMIT": " ".join(JOB_OPTIONS), "CAMS": " ".join(CAMS_OPTIONS),
                       "REFINE": "-q", **{name: str(value) for name, value in env.items()}}
        return self.cluster.run_program(SCRIPTS / "chain.sh", "train.h5", "cam.safetensors", out, cwd=self.folder,
                                        env=environment).split()

    def read_log(self, job: str, task: int | None = None) -> str:
        """Return the log of a job, or of one of its tasks."""
        ending = f"-{job}.log" if task is None else f"-{job}_{task}.log"
        return "".join(path.read_text() for path in self.folder.glob(f"*{ending}"))

    def read_shards(self, run: str) -> dict[str, bytes]:
        """Return the contents of the finished shards of a run by name."""
        return {path.name: path.read_bytes() for path in sorted((self.folder / run).glob("*.h5"))}


CAMS_OPTIONS = (*SMALL, "--shard-size", "4")


@pytest.fixture(scope="session")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return the folder in which all jobs work."""
    folder = tmp_path_factory.mktemp("site")
    done = index_table(create_dataset(folder / "pictures", n=16).root, folder / "train.h5")
    assert done.code == 0, done.err
    run_ok("train-cls", "cam", "train.h5", *TRAINING, "--long-side", "32,48", "-o", "cam.safetensors", cwd=folder)
    run_ok("cams", "cnn", "train.h5", "--net", "cam.safetensors", *CAMS_OPTIONS, "-j", "1", "-o", "serial/cams",
           cwd=folder)
    run_ok("refine", "crf", "serial/cams", "-j", "1", "-o", "serial/crf", cwd=folder)
    run_ok("pseudo", "serial/crf", "-j", "1", "-o", "serial/masks", cwd=folder)
    return Site(folder, cluster)
