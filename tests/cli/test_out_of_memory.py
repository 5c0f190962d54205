"""Running out of memory, of the machine or a GPU, exits with 74 and one line, and keeps the finished work."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli.runner import SMALL, check_error, run, run_ok
from stages.cams import cnn
from stages.errors import explain_memory_error

# Larger than the address space of any machine, so that every allocation fails.
TOO_MUCH = 1 << 62


def test_memory_errors_name_the_device_and_the_amount() -> None:
    messages = {}
    for name, allocate in (("torch", lambda: torch.empty(TOO_MUCH, dtype=torch.uint8)),
                           ("numpy", lambda: np.empty(TOO_MUCH, np.uint8)), ("python", lambda: bytearray(TOO_MUCH))):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate()
        messages[name] = str(explain_memory_error(caught.value, "do this"))
    assert messages == {"torch": "out of memory (4611686018427387904 bytes were requested). Do this.",
                        "numpy": "out of memory (4.00 EiB were requested). Do this.",
                        "python": "out of memory. Do this."}
    gpu_error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of")
    gpu_error = pickle.loads(pickle.dumps(gpu_error))  # as from a worker process
    assert str(explain_memory_error(gpu_error, "")) == "out of GPU memory (2.50 GiB were requested)"
    for other in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"):
        assert str(explain_memory_error(RuntimeError(other), "")) == "out of GPU memory"
    assert explain_memory_error(RuntimeError("The size of tensor a (2) must match"), "") is None
    assert explain_memory_error(ValueError("out of memory"), "") is None


def test_out_of_memory_loses_only_the_current_batch(tiny_index: Path, tiny_net: Path, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL, "--batch-size", "4", "-j", "1", "-o")
    run_ok(*words, tmp_path / "whole")
    calls, compute_class_maps = itertools.count(), cnn.compute_class_maps

    def run_out_of_memory(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == 1:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return compute_class_maps(*args, **kwargs)

    monkeypatch.setattr(cnn, "compute_class_maps", run_out_of_memory)
    check_error(run(*words, tmp_path / "cut"), 74, "out of memory (",
                "Run the same command on a machine with more memory",
                "or with a smaller -j. A smaller --batch-size needs less memory, but starts over")
    assert len(list((tmp_path / "cut").glob("*.part"))) == 1
    check_error(run(*words, tmp_path / "cut", "--batch-size", "2"), 73, "batch_size")
    run_ok(*words, tmp_path / "cut")
    assert next(calls) == 4, "three batches, and the second once more"
    [whole], [cut] = ((tmp_path / name).glob("*.h5") for name in ("whole", "cut"))
    assert cut.read_bytes() == whole.read_bytes()


def test_commands_without_batch_size_suggest_a_larger_machine(tiny_index: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out_of_memory(*_: object) -> None:
        bytearray(TOO_MUCH)

    monkeypatch.setattr("stages.cooc.stage.count_cooccurrences", run_out_of_memory)
    result = run("cooc", tiny_index, "-o", tmp_path / "c.h5")
    check_error(result, 74, "out of memory. Run the same command on a machine")
