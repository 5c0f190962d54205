"""Compute the losses of TCL: masks of whole captions.

Cha et al., "Learning to Generate Text-grounded Mask for Open-world Semantic Segmentation from Only Image-Text Pairs"
(CVPR 2023). Batches have `image` (B, 3, S, S) and `caption` (B, L) token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stages.nets.frozen_clip import find_text_ends
from stages.nets.text_grounded import TextGroundedNet
from stages.train_text.grounding import compute_grounding_losses


def loss(net: TextGroundedNet, batch: Mapping[str, Tensor], *, config: Any) -> dict[str, Tensor]:
    """Return {"loss", ...} for a batch: the total and its terms."""
    with torch.no_grad():
        rows, grid = net.clip.forward_trunk(batch["image"])
        words = net.clip.embed_tokens(batch["caption"])
        texts = net.clip.encode_text(words, find_text_ends(batch["caption"]))
    valid = torch.ones(len(texts), dtype=torch.bool, device=texts.device)
    grounding = compute_grounding_losses(net, batch["image"], net.segmenter(rows, grid), texts, valid, config)
    return {"loss": grounding.total, **{name: value.detach() for name, value in grounding.losses.items()}}
