"""Check weights for NaN and infinite values, which make a network useless."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stages.errors import BadData

NOT_FINITE_REMEDY = "Use a checkpoint from before the training diverged, or copy the file again"


def check_weights_finite(tensors: Mapping[str, Tensor], where: str, remedy: str = NOT_FINITE_REMEDY) -> None:
    """Raise BadData naming the first tensor with NaN or infinite values, and the number of these values.

    `where` is the file and `remedy` what the user can do. Numbers that are too large for float32, in which networks
    compute, count as infinite. Attention masks may hold minus infinity. Integer tensors are always finite.
    """
    counts = {name: count for name, tensor in tensors.items() if (count := count_nonfinite(name, tensor))}
    if counts:
        name, count = next(iter(counts.items()))
        num_others = len(counts) - 1
        others = f", and {num_others} more tensors hold such values" if num_others > 1 else (
            ", and 1 more tensor holds such values" if num_others else "")
        verb = "is" if count == 1 else "are"
        raise BadData(f"{count} of the {tensors[name].numel()} values of {name} {verb} not finite (NaN or "
                      f"infinite){others}", remedy, where=where)


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
    if "mask" in name.rpartition(".")[2]:
        is_valid |= torch.isneginf(values)
    return int(is_valid.numel() - is_valid.sum())
