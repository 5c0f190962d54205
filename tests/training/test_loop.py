"""A training that is cut anywhere and goes on ends with the same bytes; it tells when it can't go on."""

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
from stages.nets.files import tensors_sha256
from stages.shards import part_path
from stages.shards.request import sha256_of
from stages.training.checkpoint import Checkpoint
from stages.training.loop import finished_before, train
from training.small import CONFIG, Small, StopAfter, draw, job_of, loss, trained

STEPS = 9  # 7 pictures, batches of 2, 3 passes


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_stopped_after_any_step_it_ends_bit_equal(tmp_path: Path, optimizer: str) -> None:
    config = replace(CONFIG, optimizer=optimizer)
    whole = trained(tmp_path / "whole.safetensors", config)
    for steps in range(1, STEPS):
        path = tmp_path / f"cut{steps}.safetensors"
        with pytest.raises(Stopped, match=rf"stopped after step {steps} of {STEPS}; run the same") as told:
            trained(path, config, steps=steps)
        assert told.value.code == 75 and not path.exists() and part_path(path).exists()
        assert trained(path, config) == whole
        assert not part_path(path).exists()
    left = {file.name for file in tmp_path.iterdir() if not file.name.endswith((".safetensors", ".jsonl"))}
    assert left == set()


def test_stopped_after_every_step(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    for step in range(1, STEPS):
        with pytest.raises(Stopped, match=f"step {step} of"):
            trained(path, steps=1)
    assert trained(path) == trained(tmp_path / "whole.safetensors")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_the_number_of_reading_threads_changes_nothing(tmp_path: Path, workers: int) -> None:
    assert trained(tmp_path / "a.safetensors", workers=workers) == trained(tmp_path / "b.safetensors")


def test_the_seed_changes_the_net(tmp_path: Path) -> None:
    # From equal weights, so that it is order and augmentation that differ.
    nets = {seed: trained(tmp_path / f"{seed}.safetensors", replace(CONFIG, seed=seed), job=job_of(CONFIG))
            for seed in (0, 1, 2**31)}
    assert len(set(nets.values())) == 3


def test_an_interruption_without_a_word_goes_on_from_the_last_pass(tmp_path: Path) -> None:
    path, calls = tmp_path / "cut.safetensors", []

    def dying(net: torch.nn.Module, batch: dict) -> dict:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return loss(net, batch)

    with pytest.raises(KeyboardInterrupt):
        trained(path, job=job_of(CONFIG, loss=dying))
    report = StopAfter()
    train(job_of(CONFIG), CONFIG, Output(path), ordinal="cpu", stop=report.stop, report=report)
    assert f"goes on after step 6 of {STEPS}" in report.lines
    trained(tmp_path / "whole.safetensors")
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_stopped_while_the_trained_net_is_measured_it_does_not_train_again(tmp_path: Path, average: float) -> None:
    config, seen = replace(CONFIG, average=average), []

    def finish(net: torch.nn.Module) -> None:
        seen.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        if len(seen) == 1:
            raise Stopped("stopped while measuring")
        net.norm.running_mean.fill_(7)

    path = tmp_path / "cut.safetensors"
    with pytest.raises(Stopped, match="while measuring"):
        trained(path, config, job=job_of(config, finish=finish))
    assert part_path(path).exists() and not path.exists()
    trained(path, config, job=job_of(config, finish=finish, loss=None))
    trained(tmp_path / "plain.safetensors", config)
    written, plain = load_file(path), load_file(tmp_path / "plain.safetensors")
    assert (written.pop("norm.running_mean") == 7).all()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in written.items())
    # What is measured is the net that is written, with its averaged weights.
    assert all(torch.equal(tensor, plain[name]) for held in seen for name, tensor in held.items())
    assert not part_path(path).exists()


def test_two_batches_that_make_one_step_are_one_batch_of_twice_the_size(tmp_path: Path) -> None:
    """Without batch normalisation and dropout, which see the small batches, the weights are the same."""
    nets = {}
    for name, change in (("one", {"batch_size": 4}), ("two", {"batch_size": 2, "accumulate": 2}),
                         ("four", {"batch_size": 1, "accumulate": 4}), ("other", {"batch_size": 2})):
        config = replace(CONFIG, average=0.0, epochs=1, freeze_bn="all", **change)
        job = job_of(config, n_samples=8)
        job.net.drop.p = 0.0
        trained(tmp_path / f"{name}.safetensors", config, job=job)
        nets[name] = load_file(tmp_path / f"{name}.safetensors")
    for name in ("two", "four"):
        for key, tensor in nets["one"].items():
            torch.testing.assert_close(nets[name][key], tensor, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(nets["other"]["conv.weight"], nets["one"]["conv.weight"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("n", "batch_size", "accumulate", "steps"),
                         [(1, 4, 1, 3), (3, 2, 2, 3), (5, 2, 2, 3), (9, 2, 2, 6)])
def test_few_pictures_are_used_once_a_pass(tmp_path: Path, n: int, batch_size: int, accumulate: int,
                                           steps: int) -> None:
    config, seen = replace(CONFIG, batch_size=batch_size, accumulate=accumulate), []

    def noted(position: int, generator: object) -> dict:
        seen.append(position)
        return draw(position, generator)  # type: ignore[arg-type]

    trained(tmp_path / "net.safetensors", config, job=job_of(config, n_samples=n, draw=noted), workers=0)
    together = min(n, batch_size * accumulate)
    assert len(seen) == steps * together
    per_pass = len(seen) // 3
    assert all(len(set(seen[start:start + per_pass])) == per_pass for start in range(0, len(seen), per_pass))
    log = [json.loads(line) for line in (tmp_path / "net.log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [steps // 3, 2 * steps // 3, steps]


def test_the_running_average_is_what_is_saved(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1)
    states = []

    def noted(net: Small, batch: dict) -> dict:
        states.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
        return loss(net, batch)

    job = job_of(config, loss=noted)
    trained(tmp_path / "net.safetensors", config, job=job)
    states.append(job.net.state_dict())
    wanted = states[0]["conv.weight"]
    for state in states[1:]:
        wanted = 0.5 * wanted + 0.5 * state["conv.weight"]
    found = load_file(tmp_path / "net.safetensors")
    torch.testing.assert_close(found["conv.weight"], wanted)
    assert not torch.equal(found["conv.weight"], states[-1]["conv.weight"])
    assert found["norm.num_batches_tracked"] == 3
    trained(tmp_path / "last.safetensors", replace(config, average=0.0), job=job_of(config))
    assert torch.equal(load_file(tmp_path / "last.safetensors")["conv.weight"], states[-1]["conv.weight"])


def test_a_loss_that_is_not_finite_is_told_with_its_step_and_writes_no_net(tmp_path: Path) -> None:
    calls = []

    def broken(net: torch.nn.Module, batch: dict) -> dict:
        calls.append(1)
        return {name: value * (float("nan") if len(calls) == 5 else 1) for name, value in loss(net, batch).items()}

    with pytest.raises(BadData, match=r"net\.safetensors: the loss is nan at step 4; try a smaller --lr") as told:
        trained(tmp_path / "net.safetensors", job=job_of(CONFIG, loss=broken))
    assert told.value.code == 65 and not (tmp_path / "net.safetensors").exists()


def test_weights_that_are_not_finite_at_the_end_are_no_net(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1, lr=1e37, schedule="constant", average=0.0, batch_size=7)
    with pytest.raises(BadData, match=r"not finite after the last step; try a smaller --lr"):
        trained(tmp_path / "net.safetensors", config, job=job_of(config, loss=lambda net, batch: {
            "loss": loss(net, batch)["loss"] * 1e8}))
    assert not (tmp_path / "net.safetensors").exists()


def test_an_unfinished_training_with_other_settings_is_kept_unless_forced(tmp_path: Path) -> None:
    path, other = tmp_path / "net.safetensors", replace(CONFIG, lr=0.05)
    with pytest.raises(Stopped):
        trained(path, steps=2)
    state = part_path(path).read_bytes()
    with pytest.raises(CannotCreate, match=r"net\.safetensors\.part: .*\(lr: 0\.1 -> 0\.05\)") as told:
        trained(path, other)
    assert told.value.code == 73 and part_path(path).read_bytes() == state
    assert trained(path, other, force=True) == trained(tmp_path / "other.safetensors", other)


def test_a_finished_net_is_up_to_date_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    trained(path)
    entry = job_of(CONFIG).description["provenance"][0]
    os.utime(path, (1, 1))
    assert finished_before(entry, Output(path)).up_to_date == 1
    assert path.stat().st_mtime > 1
    assert finished_before(entry, Output(path, force=True)) is None
    assert finished_before(entry, Output(tmp_path / "new.safetensors")) is None
    with pytest.raises(CannotCreate, match=r"seed: 0 -> 5"):
        finished_before({**entry, "config": {**entry["config"], "seed": 5}}, Output(path))


def test_two_on_one_net(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    first = Checkpoint(path, {})
    with pytest.raises(Stopped, match=r"net\.safetensors: another process") as told:
        trained(path)
    assert told.value.code == 75
    first.release(finished=False)
    (tmp_path / "net.safetensors.lock").touch()  # what a killed training leaves holds nobody up
    trained(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.log.jsonl", "net.safetensors"]


def test_a_state_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    part_path(path).write_bytes(b"no state")
    with pytest.raises(BadData, match=r"net\.safetensors\.part: is no training state .*remove it to start anew"):
        trained(path)


def test_a_damaged_state_is_never_gone_on_with(tmp_path: Path) -> None:
    whole, path = trained(tmp_path / "whole.safetensors"), tmp_path / "net.safetensors"
    with pytest.raises(Stopped):
        trained(path, steps=4)
    state = part_path(path).read_bytes()
    for place in (len(state) - 1, len(state) - 700, state.index(b'\\"step\\": ') + 10):
        part_path(path).write_bytes(state[:place] + bytes([state[place] ^ 1]) + state[place + 1:])
        with pytest.raises(BadData, match=r"net\.safetensors\.part: damaged: .*remove it to start anew") as told:
            trained(path)
        assert told.value.code == 65 and not path.exists()
    assert trained(path, force=True) == whole
    part_path(path).write_bytes(state)
    path.unlink()
    assert trained(path) == whole


def test_a_state_that_is_not_finite_is_never_gone_on_with(tmp_path: Path) -> None:
    """The last step before it was saved can have spoilt the weights, after its own loss was finite."""
    path = tmp_path / "net.safetensors"
    with pytest.raises(Stopped):
        trained(path, steps=2)
    with safe_open(part_path(path), "pt") as file:
        head = json.loads(file.metadata()["wsss-training"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    tensors["net.conv.weight"].view(-1)[:3] = float("nan")
    head["sha256"] = tensors_sha256(tensors)
    head["digest"] = sha256_of({key: value for key, value in head.items() if key != "digest"})
    part_path(path).write_bytes(save(tensors, {"wsss-training": json.dumps(head, sort_keys=True)}))
    with pytest.raises(BadData, match=r"net\.safetensors\.part: 3 of the 108 values of net\.conv\.weight are not finite"
                       r".*smaller --lr"):
        trained(path)
    assert not path.exists()
    trained(path, force=True)
    assert path.exists()


def test_a_state_of_an_older_version_has_no_checksum_and_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    with pytest.raises(Stopped):
        trained(path, steps=4)
    with safe_open(part_path(path), "pt") as file:
        head = json.loads(file.metadata()["wsss-training"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    told = json.dumps({key: value for key, value in head.items() if key not in ("sha256", "digest")})
    part_path(path).write_bytes(save(tensors, {"wsss-training": told}))
    with pytest.raises(BadData, match=r"has no checksum: .* an older version; remove it to start anew"):
        trained(path)


def test_no_room_for_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    whole = trained(tmp_path / "whole.safetensors")
    path = tmp_path / "net.safetensors"
    with pytest.raises(Stopped):
        trained(path, steps=4)
    with monkeypatch.context() as patched, pytest.raises(IoFailed, match="No space left") as told:
        patched.setattr("os.fsync", full)
        trained(path)
    assert told.value.code == 74
    assert trained(path) == whole


def test_the_log_has_a_line_a_pass_with_the_means(tmp_path: Path) -> None:
    losses = []

    def noted(net: torch.nn.Module, batch: dict) -> dict:
        values = loss(net, batch)
        losses.append(values["loss"].item())
        return values

    path = tmp_path / "net.safetensors"
    with pytest.raises(Stopped):
        trained(path, steps=4, job=job_of(CONFIG, loss=noted))
    trained(path, job=job_of(CONFIG, loss=noted))
    log = [json.loads(line) for line in (tmp_path / "net.log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3]
    # The second pass was cut after its first step: the mean is over what this process saw.
    means = [sum(losses[:3]) / 3, sum(losses[4:6]) / 2, sum(losses[6:]) / 3]
    for line, mean in zip(log, means, strict=True):
        assert line["loss"] == pytest.approx(mean, abs=1e-5)
        assert line["twice"] == pytest.approx(2 * mean, abs=1e-5)
