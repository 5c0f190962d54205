"""Every command that takes `--device` ends on a stand-in for a GPU as it does on the CPU, with the same values."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from safetensors.numpy import load_file

from cli.every_command import COMMANDS, SEEDED, commands_of
from cli.runner import good, refused, run
from gpu_stand_in import stand_in
from stages.shards import Shard
from wsss_cli.app import app

WORDS = {**COMMANDS, "prompts": f"train.h5 {SEEDED} --templates templates.txt --json"}
# Maps are stored in half precision, whose steps are 1e-3 near 1; batches are larger on a GPU.
CLOSE = {"rtol": 1e-4, "atol": 2e-3}
HALF = ("cams cnn", "cams clip-es", "cams mctformer", "refine psa", "refine irn", "segment net")


def devices() -> list[str]:
    """Return the commands that take `--device`."""
    commands = commands_of(typer.main.get_command(app))
    return [name for name, one in commands.items() if any("--device" in param.opts for param in one.params)]


def made(name: str, words: str, folder: Path, output: Path) -> dict[str, np.ndarray]:
    """Run a command in `folder`, and return everything that it made, by name; else the numbers that it printed."""
    output.mkdir()
    told = good(*name.split(), *words.replace("OUT", f"{output}/OUT").split(), cwd=folder)
    found: dict[str, np.ndarray] = {}
    for path in sorted(output.glob("*.safetensors")):
        found |= {f"{path.name} {key}": value for key, value in load_file(path).items()}
    for path in sorted([*output.glob("*.h5"), *output.glob("*/*.h5")]):
        shard = Shard(path)
        if shard.kind == "features":
            found["features"] = shard.root("features")
            continue
        for item_id in shard.ids:
            found |= {f"{path.name} {item_id} {key}": value for key, value in shard.item(item_id).datasets.items()}
    return found or {"told": np.array(re.findall(r"\d\.\d+", "\n".join(told)), float)}


@pytest.mark.parametrize("name", devices())
def test_the_values_are_those_of_the_cpu(name: str, every_input: Path, tmp_path: Path) -> None:
    if "train-aff" in name:
        pytest.importorskip("pydensecrf")
    on_the_cpu = made(name, WORDS[name], every_input, tmp_path / "cpu")
    with stand_in():
        on_the_gpu = made(name, WORDS[name].replace("--device cpu", "--device cuda"), every_input, tmp_path / "gpu")
    assert on_the_cpu and on_the_gpu.keys() == on_the_cpu.keys()
    for key, value in on_the_cpu.items():
        if value.dtype.kind == "f":
            np.testing.assert_allclose(on_the_gpu[key].astype(float), value.astype(float), **CLOSE, err_msg=key)
        else:  # scores that are nearly equal, or between two steps of a confidence
            assert (np.abs(on_the_gpu[key].astype(int) - value) > 1).mean() < 2e-3, key


@pytest.mark.parametrize(("name", "precision"), [*((name, "bf16") for name in HALF), ("cams cnn", "fp32")])
def test_precision(name: str, precision: str, every_input: Path, tmp_path: Path) -> None:
    # What is stored may be the same in both precisions: maps keep 11 bits, masks none. The types of the products tell
    # which was used, on every processor.
    words = f"{WORDS[name]} --precision {precision}".replace("--device cpu", "--device cuda")
    with stand_in(autocast=True) as product_dtypes:
        assert made(name, words, every_input, tmp_path / "gpu")
    assert (torch.bfloat16 in product_dtypes) == (precision == "bf16")
    assert product_dtypes <= {torch.bfloat16, torch.float32}


def test_scaled_gradients(every_input: Path, tmp_path: Path) -> None:
    words = f"{WORDS['train-cls cam']} --precision fp16".replace("--device cpu", "--device cuda")
    with stand_in():
        assert made("train-cls cam", words, every_input, tmp_path / "gpu")


def test_kernels_that_are_not_deterministic_are_let_through_in_silence(every_input: Path, tmp_path: Path) -> None:
    words = WORDS["train-cls cam"].replace("--device cpu", "--device cuda")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with stand_in():
            made("train-cls cam", words, every_input, tmp_path / "gpu")
            assert torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            torch.zeros(3).put_(torch.tensor([0, 1]), torch.ones(2))
        finally:
            torch.use_deterministic_algorithms(False)
    assert not [str(one.message) for one in told if "deterministic" in str(one.message)]


def test_a_gpu_that_is_not_here(every_input: Path) -> None:
    asked = ("features", "train.h5", "--net", "net.safetensors", "-o", "x", "--device")
    for name in ("gpu", "cuda:", "cuda:x", "cpu:0", "auto:1", ""):
        refused(run(*asked, name, cwd=every_input), 2, f"--device {name}".strip(), "is not auto, cpu, cuda or cuda:N")
    with stand_in():
        refused(run(*asked, "cuda:3", cwd=every_input), 69, "cuda:3 is not here", "the last of the 1 is cuda:0")


def test_more_processes_than_gpus(every_input: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    words = ("train-cls", "cam", *WORDS["train-cls cam"].replace("--device cpu", "--device cuda").split())
    with stand_in():
        refused(run(*words, cwd=every_input), 69, "torchrun started 2 processes here, and there are 1 GPUs")
        refused(run(*words, "--device", "cuda:0", cwd=every_input), 2, "--device cuda:0 is one GPU", "--device cuda")


def test_tensors_of_both_devices_are_refused() -> None:
    with stand_in():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        assert there.device == torch.device("cuda", 0) and here.device.type == "cpu"
        for mixed in (lambda: there + here, lambda: torch.cat([there, here]), lambda: here.add_(there),
                      lambda: here[there.long()], lambda: there.numpy(), lambda: here.add_(there.sum()),
                      lambda: torch.nn.functional.linear(there, torch.ones(2, 3)),
                      lambda: torch.rand(2, device="cuda", generator=torch.Generator())):
            with pytest.raises((RuntimeError, TypeError)):
                mixed()
        assert (there * torch.tensor(2.0) + there[torch.tensor([0, 1, 1])]).tolist() == [3, 3, 3]
        assert here.copy_(there * 4).tolist() == there.copy_(here).cpu().tolist() == [4, 4, 4]
        weight = torch.nn.Linear(3, 2).to("cuda").weight
        (weight.exp() * there).sum().backward()
        assert weight.grad.device == there.device
        torch.testing.assert_close(weight.grad.cpu(), 4 * weight.detach().cpu().exp())
    assert not torch.cuda.is_available() or torch.ones(1, device="cuda").is_cuda
