"""`train-seg --steps` trains for exactly that many steps, whatever an epoch is, and its schedule ends with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.runner import TRAINING, run

# 12 images in batches of 4.
STEPS_PER_EPOCH = 3


def train(index: Path, out: Path, *more: object) -> list[dict[str, float]]:
    """Train a network on the true masks, and return the lines of its log."""
    options = [word for word in TRAINING if word != "--epochs"]
    options.remove("1")
    done = run("train-seg", index, "--masks", "truth", *options, "--optimizer", "sgd", "--lr", 0.01, *more, "-o", out)
    assert done.code == 0, done.err
    return [json.loads(line) for line in Path(f"{out}.log.jsonl".replace(".safetensors", "")).read_text().splitlines()]


@pytest.mark.parametrize("steps", [2, STEPS_PER_EPOCH, 5])
def test_training_ends_after_steps(tmp_path: Path, tiny_index: Path, steps: int) -> None:
    lines = train(tiny_index, tmp_path / "seg.safetensors", "--steps", steps, "--epochs", 1)
    assert [line["step"] for line in lines] == [*range(STEPS_PER_EPOCH, steps, STEPS_PER_EPOCH), steps]
    # The log has the mean learning rate of its steps: the polynomial ends with the last step.
    first_step = (steps - 1) // STEPS_PER_EPOCH * STEPS_PER_EPOCH
    rates = [0.01 * (1 - step / steps) ** 0.9 for step in range(first_step, steps)]
    assert lines[-1]["lr"] == pytest.approx(sum(rates) / len(rates), abs=1e-6)


def test_training_without_steps_ends_after_epochs(tmp_path: Path, tiny_index: Path) -> None:
    lines = train(tiny_index, tmp_path / "seg.safetensors", "--epochs", 2)
    assert [line["step"] for line in lines] == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]


def test_steps_enter_the_provenance(tmp_path: Path, tiny_index: Path) -> None:
    train(tiny_index, tmp_path / "seg.safetensors", "--steps", 2, "--epochs", 1)
    options = ("--masks", "truth", *TRAINING, "--optimizer", "sgd", "--lr", 0.01, "--steps", 3)
    done = run("train-seg", tiny_index, *options, "-o", tmp_path / "seg.safetensors")
    assert done.code == 73 and "steps: 2 -> 3" in done.err
