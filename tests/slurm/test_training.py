"""Training on two processes, stopped by a signal and by scancel, writes the bytes of an undisturbed training."""

from __future__ import annotations

from cli.runner import TRAINING
from slurm.cluster import wait_until
from slurm.conftest import Site

COMMAND = ("train-cls", "cam", "train.h5", *TRAINING, "--long-side", "32,48", "--batch-size", "2", "--epochs", "60")


def count_epochs(site: Site, name: str) -> int:
    """Return the number of epochs in the log of a training."""
    log = site.folder / f"{name}.log.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def submit_training(site: Site, name: str) -> str:
    """Submit a training on two processes."""
    return site.submit("train.sbatch", *COMMAND, "-o", f"{name}.safetensors", PROCESSES=2)


def test_stopped_training_on_two_processes_resumes(site: Site) -> None:
    undisturbed_job, job = submit_training(site, "whole"), submit_training(site, "cut")
    wait_until(lambda: count_epochs(site, "cut") >= 3, 240)
    site.cluster.run_program("scancel", "--signal=USR1", "--batch", job)
    wait_until(lambda: site.cluster.query_tasks(job)[0].restarts == 1 and not site.cluster.find_processes(job), 60)
    net = site.folder / "cut.safetensors"
    assert net.with_name("cut.safetensors.part").exists() and not net.exists()
    assert site.read_log(job).count("Run the same command again to resume") == 2, "both processes stop after a step"
    num_epochs = count_epochs(site, "cut")

    wait_until(lambda: count_epochs(site, "cut") >= num_epochs + 3, 240)
    assert "Resuming after step" in site.read_log(job)
    site.cluster.run_program("scancel", job)
    wait_until(lambda: site.cluster.query_tasks(job)[0].state == "CANCELLED" and not site.cluster.find_processes(job),
               60)
    assert not net.exists() and site.cluster.query_tasks(job)[0].restarts == 1

    resubmitted = submit_training(site, "cut")
    assert site.cluster.wait_for_job(resubmitted)[0].state == "COMPLETED", site.read_log(resubmitted)
    assert site.cluster.wait_for_job(undisturbed_job)[0].state == "COMPLETED", site.read_log(undisturbed_job)
    assert net.read_bytes() == (site.folder / "whole.safetensors").read_bytes()
    assert not list(site.folder.glob("cut.safetensors.*"))
