"""Resolves the device and the number of threads of a stage, before any work starts."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from stages.errors import Unavailable, UsageError


def resolve_device(name: str) -> str:
    """Return the device type `cpu` or `cuda`, which enters the provenance, for `auto|cpu|cuda[:N]`.

    Raises Unavailable if the requested GPU does not exist on this machine, UsageError for any other name.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", name):
        raise UsageError(f"--device {name} is not auto, cpu, cuda or cuda:N",
                         "Use one of these, such as --device cuda:0")
    kind, _, ordinal = name.partition(":")
    if kind == "cpu" or (kind == "auto" and not _may_have_cuda()):
        return "cpu"
    import torch
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and not num_gpus:
        raise Unavailable("no CUDA device is available on this machine",
                          "Use --device cpu, or run on a machine with a GPU")
    if int(ordinal or 0) >= max(num_gpus, 1):
        last = f"cuda:{num_gpus - 1}"
        raise Unavailable(f"--device {name} does not exist on this machine",
                          f"Use --device {last}" + (" or lower" if num_gpus > 1 else ""))
    return "cuda" if num_gpus else "cpu"


def _may_have_cuda() -> bool:
    # Avoids the import of torch (2 s) on machines without a driver.
    return any(Path("/dev").glob("nvidia*")) or Path("/dev/dxg").exists()


def count_cores() -> int:
    """Return the number of cores that this process may use, respecting its affinity mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(count: int) -> None:
    """Set the number of threads of torch, make fp32 mean fp32, and make the allocator reuse freed memory.

    By default cuDNN rounds the inputs of fp32 convolutions to the 11 bits of TF32, and matrix products not: maps would
    differ from those of a CPU by 1e-3. Who prefers speed chooses --precision bf16.
    """
    import torch
    torch.set_num_threads(count)
    torch.backends.cudnn.allow_tf32 = False
    reuse_freed_memory()


_is_freed_memory_reused = False


@cache
def _find_allocator_functions() -> tuple[Any, Any] | None:
    """Return glibc's mallopt and malloc_trim; None with another C library."""
    import ctypes

    try:
        library = ctypes.CDLL(None)
        return library.mallopt, library.malloc_trim
    except (AttributeError, OSError):
        return None


def reuse_freed_memory(enabled: bool = True) -> None:
    """Set whether the allocator keeps freed blocks of any size for later arrays, or returns those above 4 MB at once.

    By default glibc returns large blocks to the system after every layer and faults them in again; keeping them made
    training on a CPU 1.3 to 2.8 times faster in measurements at 257 and 321 pixels. But blocks of many sizes leave gaps
    in the heap: CAMs of MobileNet-v2 at four scales of 1024 x 768 pixels took 1,510 MB with them and 870 MB without.

    Called for every batch, so it does nothing if it would change nothing: finding the functions takes 0.7 ms.
    """
    global _is_freed_memory_reused
    if enabled and _is_freed_memory_reused:
        return
    _is_freed_memory_reused = enabled
    functions = _find_allocator_functions()
    if functions is None:
        return
    mallopt, malloc_trim = functions
    trim_threshold, top_pad, mmap_threshold, mmap_max = -1, -2, -3, -4
    mallopt(mmap_max, 0 if enabled else 65536)
    mallopt(mmap_threshold, 4 << 20)
    mallopt(trim_threshold, (1 << 31) - 1)
    mallopt(top_pad, 256 << 20)
    if not enabled:
        malloc_trim(0)
