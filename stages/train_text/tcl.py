"""TCL: masks of whole captions.

Cha et al., "Learning to Generate Text-grounded Mask for Open-world Semantic Segmentation from Only Image-Text Pairs"
(CVPR 2023). Batches have `image` (B, 3, S, S) and `caption` (B, L) token ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stages.nets.frozen_clip import ends_of
from stages.nets.text_grounded import TextGrounded
from stages.train_text.grounding import ground


def loss(net: TextGrounded, batch: Mapping[str, Tensor], *, config: Any) -> dict[str, Tensor]:
    """Return {"loss"} and its parts for a batch."""
    with torch.no_grad():
        rows, grid = net.clip.trunk(batch["image"])
        words = net.clip.word_embedding(batch["caption"])
        texts = net.clip.text_embedding(words, ends_of(batch["caption"]))
    there = torch.ones(len(texts), dtype=torch.bool, device=texts.device)
    found = ground(net, batch["image"], net.segmenter(rows, grid), texts, there, config)
    return {"loss": found.total, **{name: value.detach() for name, value in found.losses.items()}}
