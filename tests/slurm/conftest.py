"""A private SLURM for the session, and what its jobs work on: pictures, a net, and what one process makes of them."""

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

from cli.runner import SMALL, TRAINING, good, index_table
from conftest import ROOT, CommandLine
from pictures import make_folder
from slurm.cluster import PACKAGES, Cluster, lacking

SCRIPTS = ROOT / "examples" / "slurm"
# What the scripts ask of a real cluster is more than a small machine has.
FITTING = ("--cpus-per-task=1", "--mem=100M")
TASKS = 4


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which `make test-slurm` allows the installation."""
    parser.addoption("--install-slurm", action="store_true", help="Install SLURM by apt-get where it is lacking.")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Return a running SLURM; skip, and say why, where it is not to be had."""
    if lacking() and request.config.getoption("--install-slurm", default=False):
        _install()
    if lacking():
        pytest.skip(f"no SLURM here: {', '.join(lacking())} lacking (make test-slurm installs it, as root on Debian)")
    # Not below tmp_path: munged wants every folder above its socket open to all, and its path is to be short.
    folder = Path(tempfile.mkdtemp(prefix="wsss-slurm-"))
    # `wsss` and `torchrun` as in an active environment, with the sources of this folder.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    running = Cluster(folder, env={**CommandLine._environment(None), "PATH": path})
    try:
        running.start()
        yield running
    finally:
        running.end()


def _install() -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip(f"SLURM can't be installed: that needs root and apt-get install {' '.join(PACKAGES)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (("update", "-qq"), ("install", "-qq", "-y", "--no-install-recommends", *PACKAGES)):
        try:
            done = subprocess.run(["apt-get", *words], env=env, capture_output=True, text=True, timeout=180)
        except subprocess.TimeoutExpired as error:
            pytest.skip(f"SLURM can't be installed: {error}")
    if done.returncode:
        pytest.skip(f"SLURM can't be installed: {done.stderr.strip().splitlines()[-1]}")


@dataclass(frozen=True)
class Site:
    """A folder on the cluster: train.h5 of 16 pictures, cam.safetensors, and serial/, made by one process.

    Runs to compare lie as deep as those, because a shard holds the relative path of its index.
    """

    folder: Path
    cluster: Cluster

    def submit(self, script: str, *words: object, options: tuple[str, ...] = (), **env: object) -> str:
        """Submit a job script of examples/slurm, unchanged, and return the number of the job."""
        given = {name: str(value) for name, value in env.items()}
        return self.cluster.call("sbatch", "--parsable", *FITTING, *options, SCRIPTS / script, *words,
                                 cwd=self.folder, env=given).strip()

    def chain(self, out: str, **env: object) -> list[str]:
        """Submit examples/slurm/chain.sh, unchanged; return the numbers of its three jobs."""
        given = {"TASKS": str(TASKS), "SUBMIT": " ".join(FITTING), "CAMS": " ".join(MAPS), "REFINE": "-q",
                 **{name: str(value) for name, value in env.items()}}
        return self.cluster.call(SCRIPTS / "chain.sh", "train.h5", "cam.safetensors", out, cwd=self.folder,
                                 env=given).split()

    def log(self, job: str, task: int | None = None) -> str:
        """Return what a job, or a task of it, has said so far."""
        ending = f"-{job}.log" if task is None else f"-{job}_{task}.log"
        return "".join(path.read_text() for path in self.folder.glob(f"*{ending}"))

    def shards(self, run: str) -> dict[str, bytes]:
        """Return the finished shards of a run by name."""
        return {path.name: path.read_bytes() for path in sorted((self.folder / run).glob("*.h5"))}


MAPS = (*SMALL, "--shard-size", "4")


@pytest.fixture(scope="session")
def site(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Return the folder that all jobs work in."""
    folder = tmp_path_factory.mktemp("site")
    done = index_table(make_folder(folder / "pictures", n=16).root, folder / "train.h5")
    assert done.code == 0, done.err
    good("train-cls", "cam", "train.h5", *TRAINING, "--long-side", "32,48", "-o", "cam.safetensors", cwd=folder)
    good("cams", "cnn", "train.h5", "--net", "cam.safetensors", *MAPS, "-j", "1", "-o", "serial/cams", cwd=folder)
    good("refine", "crf", "serial/cams", "-j", "1", "-o", "serial/crf", cwd=folder)
    good("pseudo", "serial/crf", "-j", "1", "-o", "serial/masks", cwd=folder)
    return Site(folder, cluster)
