"""`cams cnn --precision auto` computes in the format of the processor, and records which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cli.runner import run_ok
from stages.shards import Run


def read_cams(folder: Path) -> np.ndarray:
    """Return the values of all CAMs of a run."""
    run = Run([folder])
    return np.concatenate([run.item(item_id).datasets["cam"].astype(np.float32).ravel() for item_id in run.ids])


@pytest.mark.parametrize(("has_bf16", "used"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_recorded_as_what_was_used(has_bf16: bool, used: str, every_input: Path, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.nets.precision.has_cpu_bf16", lambda: has_bf16)
    for precision in ("auto", used):
        run_ok("cams", "cnn", "train.h5", "--net", "net.safetensors", "--scales", "1", "--device", "cpu",
               "--precision", precision, "-o", tmp_path / precision, cwd=every_input)
    automatic, explicit = (Run([tmp_path / precision]) for precision in ("auto", used))
    assert automatic.first.provenance[-1]["config"]["precision"] == used
    assert automatic.digest == explicit.digest


def test_half_precision_is_close_to_full(every_input: Path, tmp_path: Path) -> None:
    cams = []
    for precision in ("fp32", "bf16"):
        run_ok("cams", "cnn", "train.h5", "--net", "net.safetensors", "--device", "cpu", "--tags", "all",
               "--precision", precision, "-o", tmp_path / precision, cwd=every_input)
        cams.append(read_cams(tmp_path / precision))
    difference = np.abs(cams[0] - cams[1]).max()
    assert 0 < difference < 0.1, "bf16 has 8 bits, and the network ten layers"
