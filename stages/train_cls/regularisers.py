"""Regularise a classifier's predictions (self-entropy) and its CAMs (concentration).

Grandvalet and Bengio (NIPS 2004); Hung et al., "SCOPS" (CVPR 2019); both as in Mixup-CAM (Chang et al., BMVC 2020).

Why `binary` and `scops` are the defaults: the norm of each term's gradient on the backbone's final feature maps,
relative to that of the classification, at the default weights, on 471 photographs of VOC (29 steps per epoch; float64,
by `benchmarks/regularisers.py INDEX WEIGHTS`):

| step | 5 | 15 | 20 | 29 | 58 | 87 |
| --- | --- | --- | --- | --- | --- | --- |
| entropy, binary | 0.04 | 0.05 | 0.06 | 0.06 | 0.03 | 0.02 |
| entropy, sum | 0.55 | 0.64 | 0.75 | 0.82 | 0.42 | 0.25 |
| concentration, scops | 0.0000 | 0.0001 | 0.0003 | 0.0012 | 0.0007 | 0.0010 |
| concentration, paper | 0.75 | 9.5 | 3.1 | 1.3 | 1.7 | 0.49 |
| the same, of the image where it is largest | 1.4 | 17.9 | 4.1 | 3.1 | 3.8 | 0.7 |

`paper` is invariant to the scale of a map, so its gradient grows with the inverse of the map's sum; in cells of a 17x17
map it is some 70 times that in coordinates from -1 to 1. A head that starts from zeros makes nearly all CAMs negative
at first (none has a positive cell at step 1, 14 in 100 at step 5): the few faint cells then get the whole gradient, and
the minimum is a map with a single positive cell, or none. `scops` is safe from this: it adds 1e-3 to a softmax, whose
sum is never near zero.

Three epochs of `train-cls mixup` with the flags of examples/photographs.mk, `--precision bf16` and one seed: the mAP
of the third was 0.618 with neither, 0.621 with the entropy alone, 0.620 with `scops` alone, and 0.532 with `paper`
alone. With ten times the weight (`--lambda-ent 0 --lambda-con 2e-3`) `paper` ended at the loss of a constant prediction
(0.2374; the class frequencies give 0.2377) and a mAP of 0.097, where chance gives 0.078; `scops` had 0.622.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.nets.precision import promote_to_fp32

ENTROPIES = ("binary", "sum")
CONCENTRATIONS = ("scops", "paper")
_EPSILON = 1e-5


def self_entropy(logits: Tensor, form: str = "binary") -> Tensor:
    """Return the entropy of the predictions p = sigmoid(logits) (B, C).

    `binary`: the binary entropy of each class, averaged over classes and images (as in Mixup-CAM's code, which however
    takes the targets, where it has no gradient). `sum`: -sum_c p log p, averaged over images (the formula as printed).
    """
    logits = promote_to_fp32(logits)
    p = logits.sigmoid()
    if form == "sum":
        return -(p * torch.nn.functional.logsigmoid(logits)).sum(1).mean()
    return -(p * (p + _EPSILON).log() + (1 - p) * (1 - p + _EPSILON).log()).mean()


def compute_map_spread(maps: Tensor, form: str = "scops") -> Tensor:
    """Return (B, C): the mean squared distance of each map's response (B, C, h, w) from its centre of mass.

    `scops`: softmax over the classes of the maps after ReLU, plus 1e-3, in coordinates from -1 to 1. `paper`: the maps
    after ReLU, in cells; a map that is 0 everywhere has spread 0. It can overpower the classification (see above).
    """
    maps = promote_to_fp32(maps).relu()
    if form == "scops":
        maps = maps.softmax(dim=1) + 1e-3
    height, width = maps.shape[-2:]
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype)[:, None]
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype)[None]
    if form == "scops":
        rows, columns = 2 * rows / height - 1, 2 * columns / width - 1
    total = maps.sum((-2, -1), keepdim=True)
    share = maps / torch.where(total > 0, total, torch.ones_like(total))
    centre_row, centre_column = ((share * axis).sum((-2, -1), keepdim=True) for axis in (rows, columns))
    return (((rows - centre_row) ** 2 + (columns - centre_column) ** 2) * share).sum((-2, -1))


def concentration(maps: Tensor, labels: Tensor, form: str = "scops") -> Tensor:
    """Return the summed spread of the maps of the classes present (`labels` (B, C) above 0.5), divided by B."""
    return (compute_map_spread(maps, form) * (labels > 0.5)).sum() / len(maps)
