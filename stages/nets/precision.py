"""The dtypes that `--precision` selects."""

from __future__ import annotations

import torch
from torch import Tensor

AUTO = "auto"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: str) -> str:
    """Return the format that `precision` means on the `device` cpu or cuda: auto is bf16 where it is computed natively.

    A CPU without instructions for bf16 emulates it, which is slower than fp32.
    """
    if precision != AUTO:
        return precision
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if has_cpu_bf16() else "fp32"


def has_cpu_bf16() -> bool:
    """Return whether the CPU has instructions for bf16 products: AVX-512 BF16, or AMX."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)


def promote_to_fp32(tensor: Tensor) -> Tensor:
    """Convert a tensor of half precision to float32; float32 and float64 stay as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
