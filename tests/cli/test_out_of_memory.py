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
from stages.data.image_source import ImageSource
from stages.errors import explain_memory_error
from stages.shards import Run

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


def test_a_batch_without_memory_is_computed_image_by_image(tiny_index: Path, tiny_net: Path, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL, "--batch-size", "4", "-j", "1", "-o")
    sizes, compute_class_maps = [], cnn.compute_class_maps

    def run_out_of_memory(net: Any, views: Any, **kwargs: Any) -> Any:
        views = list(views)
        sizes.append(len(views[0]))
        if len(sizes) == 2:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return compute_class_maps(net, views, **kwargs)

    monkeypatch.setattr(cnn, "compute_class_maps", run_out_of_memory)
    run_ok(*words, tmp_path / "out")
    assert sizes == [4, 4, 1, 1, 1, 1, 4]
    run_ok(*words, tmp_path / "out")
    assert len(sizes) == 7, "up to date"


def test_an_image_without_memory_fails_alone(tiny_index: Path, tiny_net: Path, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL, "--max-side", "32", "-j", "1", "-o",
             tmp_path / "out")
    calls, compute_class_maps = itertools.count(), cnn.compute_class_maps

    def run_out_of_memory(*args: Any, **kwargs: Any) -> Any:
        if next(calls) in (3, 4):
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return compute_class_maps(*args, **kwargs)

    monkeypatch.setattr(cnn, "compute_class_maps", run_out_of_memory)
    check_error(run(*words, "--batch-size", "1"), 65, "1 of 12 images failed")
    ((item_id, reason),) = Run([tmp_path / "out"], "cams").first.errors.items()
    assert reason.startswith(f"{item_id}: out of memory (4611686018427387904 bytes were requested) for an image of 64 "
                             "x 48 pixels, computed at 32 x 24. Run the same command with --retry and a smaller -j")
    assert "smaller --max-side" in reason
    run_ok(*words, "--batch-size", "1", "--retry")
    assert not Run([tmp_path / "out"], "cams").first.errors


def test_loading_an_image_without_memory_fails_alone(tiny_index: Path, tiny_net: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    calls, read_image = itertools.count(), ImageSource.read_image

    def run_out_of_memory(source: ImageSource, item_id: str) -> np.ndarray:
        if next(calls) == 3:
            raise MemoryError
        return read_image(source, item_id)

    monkeypatch.setattr(ImageSource, "read_image", run_out_of_memory)
    done = run("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL, "-j", "1", "-o", tmp_path / "out")
    check_error(done, 65, "1 of 12 images failed")
    assert "out of memory for an image of 64 x 48 pixels" in done.err


def test_commands_without_batch_size_suggest_a_larger_machine(tiny_index: Path, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out_of_memory(*_: object) -> None:
        bytearray(TOO_MUCH)

    monkeypatch.setattr("stages.cooc.workers.count_cooccurrences", run_out_of_memory)
    result = run("cooc", tiny_index, "-o", tmp_path / "c.h5")
    check_error(result, 74, "out of memory. Run the same command on a machine")
