"""Check weights for NaN and infinite values, which make a network useless."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stages.nets.nonfinite import build_nonfinite_error, may_hold_infinity

NOT_FINITE_REMEDY = "Use a checkpoint from before the training diverged, or copy the file again"


def check_weights_finite(tensors: Mapping[str, Tensor], where: str, remedy: str = NOT_FINITE_REMEDY) -> None:
    """Raise BadData naming the first tensor with NaN or infinite values, and the number of these values.

    `where` is the file and `remedy` what the user can do. Numbers that are too large for float32, in which networks
    compute, count as infinite. Attention masks may hold minus infinity. Integer tensors are always finite.
    """
    counts = {name: count for name, tensor in tensors.items() if (count := count_nonfinite(name, tensor))}
    if counts:
        raise build_nonfinite_error({name: (count, tensors[name].shape) for name, count in counts.items()}, where,
                                    remedy)


def count_nonfinite(name: str, tensor: Tensor) -> int:
    """Return the number of values of the tensor `name` that are NaN or infinite in float32."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_floating_point():
        return 0
    values = tensor.detach().to(torch.float32)
    is_valid = torch.isfinite(values)
    if bool(is_valid.all()):
        return 0
    if may_hold_infinity(name):
        is_valid |= torch.isneginf(values)
    return int(is_valid.numel() - is_valid.sum())
