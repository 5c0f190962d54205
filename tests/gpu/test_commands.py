"""Every command with `--device` on a real GPU, compared with the CPU: `make test-gpu`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from cli.device_outputs import WORDS, compare_outputs, list_device_commands, run_and_read

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no GPU that torch can use")
_TRAININGS = [name for name in list_device_commands() if name.startswith("train-")]
_OTHERS = [name for name in list_device_commands() if not name.startswith("train-")]
# Maps are stored with 11 bits, so with steps of 1e-3 near 1; sums in another order can move a value to the next step.
TOLERANCE = {"rtol": 1e-3, "atol": 2e-3, "share": 2e-3}
# A loss is a mean over a batch. Of the weights only the first step is equal up to rounding; later ones drift apart.
_RTOL_OF_LOSS = 0.01


def _run_on(device: str, name: str, every_input: Path, output: Path, *more: str) -> dict:
    words = " ".join([WORDS[name].replace("--device cpu", f"--device {device}"), *more])
    return run_and_read(name, words, every_input, output)


@pytest.mark.parametrize("name", _OTHERS)
def test_outputs_equal_those_of_the_cpu(name: str, every_input: Path, tmp_path: Path) -> None:
    compare_outputs(_run_on("cuda", name, every_input, tmp_path / "gpu"),
                    _run_on("cpu", name, every_input, tmp_path / "cpu"), **TOLERANCE)


def _read_losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for path in sorted(folder.glob("*.log.jsonl")) for line in path.read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("name", _TRAININGS)
def test_losses_equal_those_of_the_cpu(name: str, every_input: Path, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        _run_on(device, name, every_input, tmp_path / device, "--precision fp32")
    losses = _read_losses(tmp_path / "cuda")
    assert losses == pytest.approx(_read_losses(tmp_path / "cpu"), rel=_RTOL_OF_LOSS) and losses


@pytest.mark.parametrize("name", _TRAININGS)
def test_training_in_half_precision(name: str, every_input: Path, tmp_path: Path) -> None:
    arrays = _run_on("cuda", name, every_input, tmp_path / "gpu")
    assert all(math.isfinite(float(abs(array).max())) for array in arrays.values() if array.size)
    assert _read_losses(tmp_path / "gpu")


@pytest.mark.parametrize("name", [name for name in _TRAININGS if name in ("train-cls cam", "train-seg")])
def test_training_repeats(name: str, every_input: Path, tmp_path: Path) -> None:
    first, second = (_run_on("cuda", name, every_input, tmp_path / folder) for folder in ("first", "second"))
    assert all((first[key] == second[key]).all() for key in first)


def test_dense_crf_repeats_and_does_not_depend_on_the_batch(every_input: Path, tmp_path: Path) -> None:
    first, second, alone = (_run_on("cuda", "refine crf", every_input, tmp_path / folder, f"--batch-size {size}")
                            for folder, size in (("first", 16), ("second", 16), ("alone", 1)))
    assert all((first[key] == second[key]).all() and (first[key] == alone[key]).all() for key in first)
