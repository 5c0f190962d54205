"""Position embeddings resized to another grid than the one they were trained on."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resize_position_grid(cells: Tensor, grid: tuple[int, int], mode: str, interpolate_offset: float = 0.0) -> Tensor:
    """Interpolate position embeddings (1, D, h0, w0) to the cells of `grid`: (1, D, h, w).

    `interpolate_offset` is added to (h, w) in the scale factors: released code uses (h + 0.1) / h0 to guard against
    rounding, and so samples the positions up to 0.1 of a patch off.
    """
    if not interpolate_offset:
        return F.interpolate(cells, grid, mode=mode, align_corners=False)
    factors = [(new + interpolate_offset) / old for new, old in zip(grid, cells.shape[-2:], strict=True)]
    return F.interpolate(cells, scale_factor=factors, mode=mode, align_corners=False)
