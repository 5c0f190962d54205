"""Position embeddings on another grid than the one they were learnt on."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resized_cells(cells: Tensor, grid: tuple[int, int], mode: str, beside: float = 0.0) -> Tensor:
    """Return embeddings (1, D, h, w) of the cells of `grid` from those of another, (1, D, h0, w0).

    With `beside` the distance of the samples is that of a grid so much larger: released code asks for factors of
    (h + 0.1) / h0, against rounding, and so reads the positions up to 0.1 of a patch beside their places.
    """
    if not beside:
        return F.interpolate(cells, grid, mode=mode, align_corners=False)
    factors = [(new + beside) / old for new, old in zip(grid, cells.shape[-2:], strict=True)]
    return F.interpolate(cells, scale_factor=factors, mode=mode, align_corners=False)
