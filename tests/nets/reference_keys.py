"""The keys and shapes of published checkpoints, from the reference tables."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import torch
from torch import Tensor

REFERENCE_FOLDER = Path(__file__).parents[1] / "reference"


def read_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Read {key: shape} from the table state_dict_<name>.csv."""
    folder = Path(os.environ.get("WSSS_ORACLES") or REFERENCE_FOLDER) / "cam-methods"
    with (folder / f"state_dict_{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["key"]: () if row["shape"] == "scalar" else tuple(int(side) for side in row["shape"].split("x"))
        for row in rows
    }


def build_checkpoint(name: str) -> dict[str, Tensor]:
    """Build a checkpoint with the keys of a table; every tensor is filled with the index of its row."""
    return {
        key: torch.tensor(float(index)).expand(shape) for index, (key, shape) in enumerate(read_shapes(name).items())
    }


def collect_shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return {key: shape} for a state dict."""
    return {key: tuple(tensor.shape) for key, tensor in state.items()}
