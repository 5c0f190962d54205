"""Every command with `--device` gives the same values on a simulated GPU as on the CPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from cli.device_outputs import WORDS, compare_outputs, list_device_commands, run_and_read
from cli.runner import check_error, run
from gpu_stand_in import simulate_gpu

# CAMs are stored in half precision, with steps of 1e-3 near 1; batches are larger on a GPU.
TOLERANCE = {"rtol": 1e-4, "atol": 2e-3, "share": 2e-3}
HALF_PRECISION_COMMANDS = ("cams cnn", "cams clip-es", "cams excel", "cams mctformer", "refine psa", "refine irn",
                           "segment net")


@pytest.mark.parametrize("name", list_device_commands())
def test_values_equal_those_of_cpu(name: str, every_input: Path, tmp_path: Path) -> None:
    cpu_outputs = run_and_read(name, WORDS[name], every_input, tmp_path / "cpu")
    with simulate_gpu():
        words = WORDS[name].replace("--device cpu", "--device cuda")
        gpu_outputs = run_and_read(name, words, every_input, tmp_path / "gpu")
    compare_outputs(gpu_outputs, cpu_outputs, **TOLERANCE)


@pytest.mark.parametrize(("name", "precision"), [*((name, "bf16") for name in HALF_PRECISION_COMMANDS),
                                                 ("cams cnn", "fp32")])
def test_precision(name: str, precision: str, every_input: Path, tmp_path: Path) -> None:
    # The stored values may be equal in both precisions: CAMs have 11 bits, and masks are integers. The types of the
    # matrix products show which precision was used, on every processor.
    words = f"{WORDS[name]} --precision {precision}".replace("--device cpu", "--device cuda")
    with simulate_gpu(autocast=True) as product_dtypes:
        assert run_and_read(name, words, every_input, tmp_path / "gpu")
    assert (torch.bfloat16 in product_dtypes) == (precision == "bf16")
    assert product_dtypes <= {torch.bfloat16, torch.float32}


def test_scaled_gradients(every_input: Path, tmp_path: Path) -> None:
    words = f"{WORDS['train-cls cam']} --precision fp16".replace("--device cpu", "--device cuda")
    with simulate_gpu():
        assert run_and_read("train-cls cam", words, every_input, tmp_path / "gpu")


def test_no_warning_about_nondeterministic_kernels(every_input: Path, tmp_path: Path) -> None:
    words = WORDS["train-cls cam"].replace("--device cpu", "--device cuda")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with simulate_gpu():
            run_and_read("train-cls cam", words, every_input, tmp_path / "gpu")
            assert torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            torch.zeros(3).put_(torch.tensor([0, 1]), torch.ones(2))
        finally:
            torch.use_deterministic_algorithms(False)
    assert not [str(warning.message) for warning in caught if "deterministic" in str(warning.message)]


def test_missing_gpu(every_input: Path) -> None:
    command = ("features", "train.h5", "--net", "net.safetensors", "-o", "x", "--device")
    for name in ("gpu", "cuda:", "cuda:x", "cpu:0", "auto:1", ""):
        check_error(run(*command, name, cwd=every_input), 2, f"--device {name}".strip(),
                    "is not auto, cpu, cuda or cuda:N")
    with simulate_gpu():
        check_error(run(*command, "cuda:3", cwd=every_input), 69, "cuda:3 does not exist", "Use --device cuda:0")


def test_more_processes_than_gpus(every_input: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    words = ("train-cls", "cam", *WORDS["train-cls cam"].replace("--device cpu", "--device cuda").split())
    with simulate_gpu():
        check_error(run(*words, cwd=every_input), 69, "torchrun started 2 processes on a machine with 1 GPUs")
        done = run(*words, "--device", "cuda:0", cwd=every_input)
        check_error(done, 2, "--device cuda:0 names one GPU", "--device cuda")


def test_tensors_on_different_devices_raise() -> None:
    with simulate_gpu():
        on_gpu, on_cpu = torch.ones(3, device="cuda"), torch.ones(3)
        assert on_gpu.device == torch.device("cuda", 0) and on_cpu.device.type == "cpu"
        for operation in (lambda: on_gpu + on_cpu, lambda: torch.cat([on_gpu, on_cpu]), lambda: on_cpu.add_(on_gpu),
                          lambda: on_cpu[on_gpu.long()], lambda: on_gpu.numpy(), lambda: on_cpu.add_(on_gpu.sum()),
                          lambda: torch.nn.functional.linear(on_gpu, torch.ones(2, 3)),
                          lambda: torch.rand(2, device="cuda", generator=torch.Generator())):
            with pytest.raises((RuntimeError, TypeError)):
                operation()
        assert (on_gpu * torch.tensor(2.0) + on_gpu[torch.tensor([0, 1, 1])]).tolist() == [3, 3, 3]
        assert on_cpu.copy_(on_gpu * 4).tolist() == on_gpu.copy_(on_cpu).cpu().tolist() == [4, 4, 4]
        weight = torch.nn.Linear(3, 2).to("cuda").weight
        (weight.exp() * on_gpu).sum().backward()
        assert weight.grad.device == on_gpu.device
        torch.testing.assert_close(weight.grad.cpu(), 4 * weight.detach().cpu().exp())
    assert not torch.cuda.is_available() or torch.ones(1, device="cuda").is_cuda
