"""Memory that runs out, of the machine or of a GPU, is no fault of wsss: one line, 74, and what is done is kept."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli.runner import SMALL, good, refused, run
from stages.cams import cnn
from stages.errors import refused_memory

# Beyond the address space of every machine, so that no system can promise it.
TOO_MUCH = 1 << 62


def test_whose_memory_it_was_and_how_much() -> None:
    told = {}
    for name, allocate in (("torch", lambda: torch.empty(TOO_MUCH, dtype=torch.uint8)),
                           ("numpy", lambda: np.empty(TOO_MUCH, np.uint8)), ("python", lambda: bytearray(TOO_MUCH))):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate()
        told[name] = str(refused_memory(caught.value, "do this"))
    assert told == {"torch": "out of memory (4611686018427387904 bytes were asked for); do this",
                    "numpy": "out of memory (4.00 EiB were asked for); do this", "python": "out of memory; do this"}
    on_a_gpu = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 1")
    on_a_gpu = pickle.loads(pickle.dumps(on_a_gpu))  # as from a worker process
    assert str(refused_memory(on_a_gpu, "")) == "out of memory of the GPU (2.50 GiB were asked for)"
    for other in ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"):
        assert str(refused_memory(RuntimeError(other), "")) == "out of memory of the GPU"
    assert refused_memory(RuntimeError("The size of tensor a (2) must match"), "") is None
    assert refused_memory(ValueError("out of memory"), "") is None


def test_a_batch_for_which_there_is_no_memory_costs_that_batch(tiny_index: Path, tiny_net: Path, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL, "--batch-size", "4", "-j", "1", "-o")
    good(*asked, tmp_path / "whole")
    calls, real = itertools.count(), cnn.class_maps

    def starved(*args: Any, **more: Any) -> Any:
        if next(calls) == 1:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return real(*args, **more)

    monkeypatch.setattr(cnn, "class_maps", starved)
    refused(run(*asked, tmp_path / "cut"), 74, "out of memory (", "run the same command where there is more memory",
            "or with a smaller -j; with a smaller --batch-size it begins anew")
    assert len(list((tmp_path / "cut").glob("*.part"))) == 1
    refused(run(*asked, tmp_path / "cut", "--batch-size", "2"), 73, "batch_size")
    good(*asked, tmp_path / "cut")
    assert next(calls) == 4, "three batches, and the second once more"
    [whole], [cut] = ((tmp_path / name).glob("*.h5") for name in ("whole", "cut"))
    assert cut.read_bytes() == whole.read_bytes()


def test_a_command_without_options_of_size_asks_for_a_larger_machine(tiny_index: Path, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: object) -> None:
        bytearray(TOO_MUCH)

    monkeypatch.setattr("stages.cooc.stage.counts_of", starved)
    refused(run("cooc", tiny_index, "-o", tmp_path / "c.h5"), 74, "out of memory; run the same command where there is")
