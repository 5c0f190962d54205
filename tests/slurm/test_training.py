"""Training on two processes in a job, stopped by a signal and by scancel, ends with the bytes of an undisturbed one."""

from __future__ import annotations

from cli.runner import TRAINING
from slurm.cluster import until
from slurm.conftest import Site

COMMAND = ("train-cls", "cam", "train.h5", *TRAINING, "--long-side", "32,48", "--batch-size", "2", "--epochs", "60")


def passes(site: Site, name: str) -> int:
    """Return how many passes over the images a training has told in its log."""
    log = site.folder / f"{name}.log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def start(site: Site, name: str) -> str:
    """Submit a training on two processes."""
    return site.submit("train.sbatch", *COMMAND, "-o", f"{name}.safetensors", PROCESSES=2)


def test_two_processes_stopped_and_resumed_end_as_if_they_had_not_been(site: Site) -> None:
    whole, job = start(site, "whole"), start(site, "cut")
    until(lambda: passes(site, "cut") >= 3, 240)
    site.cluster.call("scancel", "--signal=USR1", "--batch", job)
    until(lambda: site.cluster.tasks(job)[0].restarts == 1 and not site.cluster.processes(job), 60)
    net = site.folder / "cut.safetensors"
    assert net.with_name("cut.safetensors.part").exists() and not net.exists()
    assert site.log(job).count("run the same command again to go on") == 2, "both processes stopped in good order"
    told = passes(site, "cut")

    until(lambda: passes(site, "cut") >= told + 3, 240)
    assert "goes on after step" in site.log(job)
    site.cluster.call("scancel", job)
    until(lambda: site.cluster.tasks(job)[0].state == "CANCELLED" and not site.cluster.processes(job), 60)
    assert not net.exists() and site.cluster.tasks(job)[0].restarts == 1

    again = start(site, "cut")
    assert site.cluster.wait(again)[0].state == "COMPLETED", site.log(again)
    assert site.cluster.wait(whole)[0].state == "COMPLETED", site.log(whole)
    assert net.read_bytes() == (site.folder / "whole.safetensors").read_bytes()
    assert not list(site.folder.glob("cut.safetensors.*"))
