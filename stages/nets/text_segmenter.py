"""The text segmenter of CoDe: which words of a caption belong to which of its nouns.

Wu, "Image-Text Co-Decomposition for Text-Supervised Semantic Segmentation" (thesis, National Taiwan University, 2024;
CVPR 2024), section 3.2. The thesis appends "two multi-head attention layers" to CLIP's text encoder; in the released
code each is a whole block with an MLP, on the states before CLIP's final norm. Both are here. Of the heads, the norm
before them and the residual path the thesis says nothing: they are the code's.

Shapes: B captions, J nouns of a caption, L tokens, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.nets.frozen_clip import run_block

LAYERS = ("block", "attention")
_DEPTH, _HEAD_WIDTH = 2, 64
_SCALE, _SHIFT = 10.0, 0.0


class TextSegmenter(nn.Module):
    """Two layers of self-attention in both directions over a caption, and the line of the words' logits."""

    def __init__(self, width: int, layer: str = "block", heads: int = 0) -> None:
        """`layer` block or attention; `heads` 0 is one for 64 channels (8 for CLIP's 512)."""
        super().__init__()
        from open_clip.transformer import QuickGELU, ResidualAttentionBlock

        heads = heads or max(1, width // _HEAD_WIDTH)
        self.layers = nn.ModuleList(ResidualAttentionBlock(width, heads, act_layer=QuickGELU) for _ in range(_DEPTH))
        for block in self.layers if layer == "attention" else ():
            block.ln_2, block.mlp = nn.Identity(), None
        self.scale, self.shift = nn.Parameter(torch.tensor(_SCALE)), nn.Parameter(torch.tensor(_SHIFT))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the words' features (B, L, D), not normalised, of the text tower's hidden states."""
        for block in self.layers:
            hidden = run_block(block, hidden)
        return hidden

    def logits(self, features: Tensor, nouns: Tensor) -> Tensor:
        """Return (B, J, L): w cos(word, noun) + b, equation 3.2, of features (B, L, D) and nouns (B, J, D)."""
        words = F.normalize(features, dim=-1)
        return self.scale * (F.normalize(nouns, dim=-1) @ words.transpose(1, 2)) + self.shift


def word_logits(logits: Tensor, there: Tensor | None = None) -> Tensor:
    """Return logits (B, J + 1, L) whose row 0 is "no noun", fixed at 0: the extra 1 of equation 3.3.

    `there` (B, J) says which nouns a caption has; the others get no word.
    """
    if there is not None:
        logits = logits.masked_fill(~there[..., None], -torch.inf)
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


def word_masks(logits: Tensor) -> Tensor:
    """Return the word masks (B, J, L) in [0, 1] of `word_logits` (B, J + 1, L), equation 3.3."""
    return logits.softmax(dim=1)[:, 1:]
