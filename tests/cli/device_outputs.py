"""Runs the commands that have `--device`, and compares what they write on two devices."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import typer
from safetensors.numpy import load_file

from cli.every_command import COMMANDS, SEEDED, list_commands
from cli.runner import run_ok
from stages.shards import Shard
from wsss_cli.app import app

WORDS = {**COMMANDS, "prompts": f"train.h5 {SEEDED} --templates templates.txt --json",
         "segment net": f"{COMMANDS['segment net']} --crf deeplab"}


def list_device_commands() -> list[str]:
    """List the commands that have `--device`."""
    commands = list_commands(typer.main.get_command(app))
    return [name for name, command in commands.items() if any("--device" in param.opts for param in command.params)]


def run_and_read(name: str, words: str, folder: Path, output: Path) -> dict[str, np.ndarray]:
    """Run a command in `folder` and return all output arrays by name, or the numbers that it printed."""
    output.mkdir()
    printed = run_ok(*name.split(), *words.replace("OUT", f"{output}/OUT").split(), cwd=folder)
    arrays: dict[str, np.ndarray] = {}
    for path in sorted(output.glob("*.safetensors")):
        arrays |= {f"{path.name} {key}": value for key, value in load_file(path).items()}
    for path in sorted([*output.glob("*.h5"), *output.glob("*/*.h5")]):
        shard = Shard(path)
        if shard.kind == "features":
            arrays["features"] = shard.read_root("features")
            continue
        for item_id in shard.ids:
            arrays |= {f"{path.name} {item_id} {key}": value for key, value in shard.item(item_id).datasets.items()}
    return arrays or {"told": np.array(re.findall(r"\d\.\d+", "\n".join(printed)), float)}


def compare_outputs(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, rtol: float, atol: float,
                    share: float) -> None:
    """Assert equal names, equal numbers within the tolerances, and at most `share` of the integers off by over one."""
    assert expected and outputs.keys() == expected.keys()
    for key, value in expected.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(outputs[key].astype(float), value.astype(float), rtol=rtol, atol=atol,
                                       err_msg=key)
        else:  # nearly equal scores, or a confidence between two steps
            assert (np.abs(outputs[key].astype(int) - value) > 1).mean() < share, key
