"""`train-seg --steps` trains for exactly so many steps, whatever a pass is, and its schedule ends with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.runner import TRAINING, run

# 12 images in batches of 4 are 3 steps a pass.
PASS = 3


def train(index: Path, out: Path, *more: object) -> list[dict[str, float]]:
    """Train a network on the true masks, and return the lines of its log."""
    words = [word for word in TRAINING if word != "--epochs"]
    words.remove("1")
    done = run("train-seg", index, "--masks", "truth", *words, "--optimizer", "sgd", "--lr", 0.01, *more, "-o", out)
    assert done.code == 0, done.err
    return [json.loads(line) for line in Path(f"{out}.log.jsonl".replace(".safetensors", "")).read_text().splitlines()]


@pytest.mark.parametrize("steps", [2, PASS, 5])
def test_the_training_ends_after_so_many_steps(tmp_path: Path, tiny_index: Path, steps: int) -> None:
    lines = train(tiny_index, tmp_path / "seg.safetensors", "--steps", steps, "--epochs", 1)
    assert [line["step"] for line in lines] == [*range(PASS, steps, PASS), steps]
    # The log has the mean rate of its steps: the polynomial reaches its end with the last of all steps.
    first = (steps - 1) // PASS * PASS
    rates = [0.01 * (1 - step / steps) ** 0.9 for step in range(first, steps)]
    assert lines[-1]["lr"] == pytest.approx(sum(rates) / len(rates), abs=1e-6)


def test_without_steps_it_is_as_long_as_its_passes(tmp_path: Path, tiny_index: Path) -> None:
    lines = train(tiny_index, tmp_path / "seg.safetensors", "--epochs", 2)
    assert [line["step"] for line in lines] == [PASS, 2 * PASS]


def test_steps_are_a_setting_that_makes_another_network(tmp_path: Path, tiny_index: Path) -> None:
    train(tiny_index, tmp_path / "seg.safetensors", "--steps", 2, "--epochs", 1)
    words = ("--masks", "truth", *TRAINING, "--optimizer", "sgd", "--lr", 0.01, "--steps", 3)
    done = run("train-seg", tiny_index, *words, "-o", tmp_path / "seg.safetensors")
    assert done.code == 73 and "steps: 2 -> 3" in done.err
