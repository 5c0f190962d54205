"""The keys and shapes of other people's checkpoints, from the reference tables."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import torch
from torch import Tensor

COMMITTED = Path(__file__).parents[1] / "reference"


def keys_of(name: str) -> dict[str, tuple[int, ...]]:
    """Return {key: shape} of the table state_dict_<name>.csv."""
    folder = Path(os.environ.get("WSSS_ORACLES") or COMMITTED) / "cam-methods"
    with (folder / f"state_dict_{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["key"]: () if row["shape"] == "scalar" else tuple(int(side) for side in row["shape"].split("x"))
        for row in rows
    }


def checkpoint_of(name: str) -> dict[str, Tensor]:
    """Return a checkpoint with those keys; every tensor is filled with its position in the table."""
    return {
        key: torch.tensor(float(position)).expand(shape) for position, (key, shape) in enumerate(keys_of(name).items())
    }


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return {key: shape} of a state dict."""
    return {key: tuple(tensor.shape) for key, tensor in state.items()}
