"""Interrupted trainings resume to the same bytes, and report when they can't."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from stages.errors import BadData, CannotCreate, IoFailed, Stopped
from stages.flow.execution import Output
from stages.nets.net_files import hash_tensors
from stages.shards import unfinished_path
from stages.shards.request import hash_json
from stages.training.checkpoint import Checkpoint
from stages.training.loop import check_existing_net, train
from training.small import CONFIG, SmallNet, StopAfter, build_job, draw, loss, run_training

STEPS = 9  # 7 images, batches of 2, 3 epochs


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_stopped_at_any_step_resumes_to_the_same_bytes(tmp_path: Path, optimizer: str) -> None:
    config = replace(CONFIG, optimizer=optimizer)
    uninterrupted = run_training(tmp_path / "whole.safetensors", config)
    for steps in range(1, STEPS):
        path = tmp_path / f"cut{steps}.safetensors"
        with pytest.raises(Stopped, match=rf"stopped after step {steps} of {STEPS}\. Run the same") as error:
            run_training(path, config, steps=steps)
        assert error.value.code == 75 and not path.exists() and unfinished_path(path).exists()
        assert run_training(path, config) == uninterrupted
        assert not unfinished_path(path).exists()
    leftovers = {file.name for file in tmp_path.iterdir() if not file.name.endswith((".safetensors", ".jsonl"))}
    assert leftovers == set()


def test_training_stopped_after_every_step_ends_with_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    for step in range(1, STEPS):
        with pytest.raises(Stopped, match=f"step {step} of"):
            run_training(path, steps=1)
    assert run_training(path) == run_training(tmp_path / "whole.safetensors")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_number_of_workers_does_not_change_the_network(tmp_path: Path, workers: int) -> None:
    assert run_training(tmp_path / "a.safetensors", workers=workers) == run_training(tmp_path / "b.safetensors")


def test_seed_changes_order_and_augmentation(tmp_path: Path) -> None:
    # The weights start equal, so only order and augmentation differ.
    nets = {seed: run_training(tmp_path / f"{seed}.safetensors", replace(CONFIG, seed=seed), job=build_job(CONFIG))
            for seed in (0, 1, 2**31)}
    assert len(set(nets.values())) == 3


def test_crash_resumes_from_the_checkpoint_of_the_last_epoch(tmp_path: Path) -> None:
    path, calls = tmp_path / "cut.safetensors", []

    def crashing_loss(net: torch.nn.Module, batch: dict) -> dict:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return loss(net, batch)

    with pytest.raises(KeyboardInterrupt):
        run_training(path, job=build_job(CONFIG, loss=crashing_loss))
    report = StopAfter()
    train(build_job(CONFIG), CONFIG, Output(path), requested_device="cpu", stop=report.stop, report=report)
    assert f"Resuming after step 6 of {STEPS} from {unfinished_path(path)}." in report.messages
    run_training(tmp_path / "whole.safetensors")
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_stop_in_finalise_net_does_not_repeat_the_training(tmp_path: Path, average: float) -> None:
    config, finalised = replace(CONFIG, average=average), []

    def finalise_net(net: torch.nn.Module) -> None:
        finalised.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        if len(finalised) == 1:
            raise Stopped("stopped while measuring")
        net.norm.running_mean.fill_(7)

    path = tmp_path / "cut.safetensors"
    with pytest.raises(Stopped, match="while measuring"):
        run_training(path, config, job=build_job(config, finalise_net=finalise_net))
    assert unfinished_path(path).exists() and not path.exists()
    run_training(path, config, job=build_job(config, finalise_net=finalise_net, loss=None))
    run_training(tmp_path / "plain.safetensors", config)
    written, plain = load_file(path), load_file(tmp_path / "plain.safetensors")
    assert (written.pop("norm.running_mean") == 7).all()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in written.items())
    # finalise_net gets the network that is written, with its averaged weights.
    assert all(torch.equal(tensor, plain[name]) for net_state in finalised for name, tensor in net_state.items())
    assert not unfinished_path(path).exists()


def test_accumulated_batches_equal_one_larger_batch(tmp_path: Path) -> None:
    """Without batch normalisation and dropout, which depend on the batch, the weights are the same."""
    nets = {}
    for name, change in (("one", {"batch_size": 4}), ("two", {"batch_size": 2, "accumulate": 2}),
                         ("four", {"batch_size": 1, "accumulate": 4}), ("other", {"batch_size": 2})):
        config = replace(CONFIG, average=0.0, epochs=1, freeze_bn="all", **change)
        job = build_job(config, num_samples=8)
        job.net.drop.p = 0.0
        run_training(tmp_path / f"{name}.safetensors", config, job=job)
        nets[name] = load_file(tmp_path / f"{name}.safetensors")
    for name in ("two", "four"):
        for key, tensor in nets["one"].items():
            torch.testing.assert_close(nets[name][key], tensor, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(nets["other"]["conv.weight"], nets["one"]["conv.weight"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "batch_size", "accumulate", "steps"),
                         [(1, 4, 1, 3), (3, 2, 2, 3), (5, 2, 2, 3), (9, 2, 2, 6)])
def test_few_images_are_used_once_per_epoch(tmp_path: Path, n: int, batch_size: int, accumulate: int,
                                           steps: int) -> None:
    config, positions = replace(CONFIG, batch_size=batch_size, accumulate=accumulate), []

    def recording_draw(position: int, generator: object) -> dict:
        positions.append(position)
        return draw(position, generator)  # type: ignore[arg-type]

    job = build_job(config, num_samples=n, draw=recording_draw)
    run_training(tmp_path / "net.safetensors", config, job=job, workers=0)
    images_per_step = min(n, batch_size * accumulate)
    assert len(positions) == steps * images_per_step
    per_epoch = len(positions) // 3
    assert all(len(set(positions[start:start + per_epoch])) == per_epoch
               for start in range(0, len(positions), per_epoch))
    log = [json.loads(line) for line in (tmp_path / "net.log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [steps // 3, 2 * steps // 3, steps]


def test_running_average_is_saved(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1)
    states = []

    def recording_loss(net: SmallNet, batch: dict) -> dict:
        states.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return loss(net, batch)

    job = build_job(config, loss=recording_loss)
    run_training(tmp_path / "net.safetensors", config, job=job)
    states.append(job.net.state_dict())
    expected = states[0]["conv.weight"]
    for state in states[1:]:
        expected = 0.5 * expected + 0.5 * state["conv.weight"]
    saved = load_file(tmp_path / "net.safetensors")
    torch.testing.assert_close(saved["conv.weight"], expected)
    assert not torch.equal(saved["conv.weight"], states[-1]["conv.weight"])
    assert saved["norm.num_batches_tracked"] == 3
    run_training(tmp_path / "last.safetensors", replace(config, average=0.0), job=build_job(config))
    assert torch.equal(load_file(tmp_path / "last.safetensors")["conv.weight"], states[-1]["conv.weight"])


def test_nonfinite_loss_names_the_step_and_writes_no_network(tmp_path: Path) -> None:
    calls = []

    def nan_loss(net: torch.nn.Module, batch: dict) -> dict:
        calls.append(1)
        return {name: value * (float("nan") if len(calls) == 5 else 1) for name, value in loss(net, batch).items()}

    with pytest.raises(BadData, match=r"net\.safetensors: the loss is nan at step 4\. Use a smaller --lr") as error:
        run_training(tmp_path / "net.safetensors", job=build_job(CONFIG, loss=nan_loss))
    assert error.value.code == 65 and not (tmp_path / "net.safetensors").exists()


def test_nonfinite_final_weights_are_not_written(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1, lr=1e37, schedule="constant", average=0.0, batch_size=7)
    with pytest.raises(BadData, match=r"not finite after the last step\. Use a smaller --lr"):
        run_training(tmp_path / "net.safetensors", config, job=build_job(config, loss=lambda net, batch: {
            "loss": loss(net, batch)["loss"] * 1e8}))
    assert not (tmp_path / "net.safetensors").exists()


def test_checkpoint_with_other_settings_is_kept_without_force(tmp_path: Path) -> None:
    path, other = tmp_path / "net.safetensors", replace(CONFIG, lr=0.05)
    with pytest.raises(Stopped):
        run_training(path, steps=2)
    state = unfinished_path(path).read_bytes()
    with pytest.raises(CannotCreate, match=r"net\.safetensors\.part: .*\(lr: 0\.1 -> 0\.05\)") as error:
        run_training(path, other)
    assert error.value.code == 73 and unfinished_path(path).read_bytes() == state
    assert run_training(path, other, force=True) == run_training(tmp_path / "other.safetensors", other)


def test_finished_network_is_up_to_date_or_cannot_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    run_training(path)
    entry = build_job(CONFIG).description["provenance"][0]
    os.utime(path, (1, 1))
    assert check_existing_net(entry, Output(path)).num_up_to_date == 1
    assert path.stat().st_mtime > 1
    assert check_existing_net(entry, Output(path, force=True)) is None
    assert check_existing_net(entry, Output(tmp_path / "new.safetensors")) is None
    with pytest.raises(CannotCreate, match=r"seed: 0 -> 5"):
        check_existing_net({**entry, "config": {**entry["config"], "seed": 5}}, Output(path))


def test_lock_stops_a_second_training_of_one_network(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    first = Checkpoint(path, {})
    with pytest.raises(Stopped, match=r"net\.safetensors: another process") as error:
        run_training(path)
    assert error.value.code == 75
    first.release(finished=False)
    (tmp_path / "net.safetensors.lock").touch()  # the lock file of a killed training does not block others
    run_training(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.log.jsonl", "net.safetensors"]


def test_file_that_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    unfinished_path(path).write_bytes(b"no checkpoint")
    with pytest.raises(BadData, match=r"net\.safetensors\.part: the file is not a training checkpoint .*"
                       r"Remove the file, or use --force"):
        run_training(path)


def test_damaged_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    uninterrupted, path = run_training(tmp_path / "whole.safetensors"), tmp_path / "net.safetensors"
    with pytest.raises(Stopped):
        run_training(path, steps=4)
    state = unfinished_path(path).read_bytes()
    for offset in (len(state) - 1, len(state) - 700, state.index(b'\\"step\\": ') + 10):
        unfinished_path(path).write_bytes(state[:offset] + bytes([state[offset] ^ 1]) + state[offset + 1:])
        with pytest.raises(BadData, match=r"net\.safetensors\.part: the checkpoint is damaged: .*"
                           r"Remove the file, or use --force") as error:
            run_training(path)
        assert error.value.code == 65 and not path.exists()
    assert run_training(path, force=True) == uninterrupted
    unfinished_path(path).write_bytes(state)
    path.unlink()
    assert run_training(path) == uninterrupted


def test_nonfinite_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    """The last step before the save can make the weights NaN, after its own loss was finite."""
    path = tmp_path / "net.safetensors"
    with pytest.raises(Stopped):
        run_training(path, steps=2)
    with safe_open(unfinished_path(path), "pt") as file:
        head = json.loads(file.metadata()["wsss-training"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["net.conv.weight"].view(-1)[:3] = float("nan")
    head["sha256"] = hash_tensors(tensors)
    head["digest"] = hash_json({key: value for key, value in head.items() if key != "digest"})
    unfinished_path(path).write_bytes(save(tensors, {"wsss-training": json.dumps(head, sort_keys=True)}))
    with pytest.raises(BadData, match=r"net\.safetensors\.part: 3 of the 108 values of net\.conv\.weight are not finite"
                       r".*smaller --lr"):
        run_training(path)
    assert not path.exists()
    run_training(path, force=True)
    assert path.exists()


def test_checkpoint_without_checksum_is_not_resumed(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(Stopped):
        run_training(path, steps=4)
    with safe_open(unfinished_path(path), "pt") as file:
        head = json.loads(file.metadata()["wsss-training"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = json.dumps({key: value for key, value in head.items() if key not in ("sha256", "digest")})
    unfinished_path(path).write_bytes(save(tensors, {"wsss-training": header}))
    with pytest.raises(BadData, match=r"has no checksum: .* an older version wrote it\. "
                       r"Remove the file, or use --force"):
        run_training(path)


def test_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    uninterrupted = run_training(tmp_path / "whole.safetensors")
    path = tmp_path / "net.safetensors"
    with pytest.raises(Stopped):
        run_training(path, steps=4)
    with monkeypatch.context() as patched, pytest.raises(IoFailed, match="No space left") as error:
        patched.setattr("os.fsync", raise_disk_full)
        run_training(path)
    assert error.value.code == 74
    assert run_training(path) == uninterrupted


def test_log_has_the_means_of_each_epoch(tmp_path: Path) -> None:
    losses = []

    def recording_loss(net: torch.nn.Module, batch: dict) -> dict:
        values = loss(net, batch)
        losses.append(values["loss"].item())
        return values

    path = tmp_path / "net.safetensors"
    with pytest.raises(Stopped):
        run_training(path, steps=4, job=build_job(CONFIG, loss=recording_loss))
    run_training(path, job=build_job(CONFIG, loss=recording_loss))
    log = [json.loads(line) for line in (tmp_path / "net.log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3]
    # The second epoch was interrupted after its first step: its mean covers the steps of the second process only.
    means = [sum(losses[:3]) / 3, sum(losses[4:6]) / 2, sum(losses[6:]) / 3]
    for line, mean in zip(log, means, strict=True):
        assert line["loss"] == pytest.approx(mean, abs=1e-5)
        assert line["twice"] == pytest.approx(2 * mean, abs=1e-5)


@pytest.mark.parametrize(("steps_before", "job_steps", "work"), [
    (0, 0, "3 epochs"), (4, 0, "epochs 2 to 3"), (7, 0, "the last epoch"), (0, 5, "5 steps"), (2, 5, "steps 3 to 5")])
def test_the_summary_says_what_this_run_has_trained(tmp_path: Path, steps_before: int, job_steps: int,
                                                    work: str) -> None:
    path = tmp_path / "net.safetensors"
    if steps_before:
        with pytest.raises(Stopped):
            run_training(path, steps=steps_before, job=build_job(CONFIG, steps=job_steps))
    report = StopAfter()
    summary = train(build_job(CONFIG, steps=job_steps), CONFIG, Output(path), requested_device="cpu", stop=report.stop,
                    report=report)
    assert summary.work == work
