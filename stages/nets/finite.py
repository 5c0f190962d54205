"""Weights with NaN or infinite values, which no network can use."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from stages.errors import BadData

EARLIER = "use a checkpoint from before its training diverged, or copy the file again"


def check_weights_finite(tensors: Mapping[str, Tensor], where: str, do: str = EARLIER) -> None:
    """Raise BadData naming the first tensor that holds NaN or infinite values, and how many values they are.

    `where` is the file, `do` what the user can do. Numbers that are too large for float32, in which networks compute,
    count as infinite. Attention masks may hold minus infinity. Tensors of whole numbers are always finite.
    """
    counts = {name: count for name, tensor in tensors.items() if (count := count_not_finite(name, tensor))}
    if counts:
        name, count = next(iter(counts.items()))
        others = len(counts) - 1
        more = f", and {others} more tensors hold such values" if others > 1 else (
            ", and 1 more tensor holds such values" if others else "")
        verb = "is" if count == 1 else "are"
        raise BadData(f"{count} of the {tensors[name].numel()} values of {name} {verb} not finite (NaN or "
                      f"infinite){more}", do, where=where)


def count_not_finite(name: str, tensor: Tensor) -> int:
    """Return how many values of the tensor `name` are NaN or infinite in float32."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if not tensor.is_floating_point():
        return 0
    values = tensor.detach().to(torch.float32)
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return 0
    if "mask" in name.rpartition(".")[2]:
        finite |= torch.isneginf(values)
    return int(finite.numel() - finite.sum())
