"""The text segmenter of CoDe: assigns the words of a caption to its nouns.

Wu, "Image-Text Co-Decomposition for Text-Supervised Semantic Segmentation" (thesis, National Taiwan University, 2024;
CVPR 2024), section 3.2. The thesis appends "two multi-head attention layers" to CLIP's text encoder; in the released
code each is a whole block with an MLP, on the states before CLIP's final norm. Both are implemented here. The number of
heads, the norm before them and the residual path are not in the thesis; they follow the code.

Shapes: B captions, J nouns per caption, L tokens, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.nets.frozen_clip import run_block

LAYER_TYPES = ("block", "attention")
_DEPTH, _HEAD_WIDTH = 2, 64
_INITIAL_SCALE, _INITIAL_SHIFT = 10.0, 0.0


class TextSegmenter(nn.Module):
    """Two layers of bidirectional self-attention over a caption, and the scale and shift of the word logits."""

    def __init__(self, width: int, layer: str = "block", heads: int = 0) -> None:
        """`layer` is "block" or "attention"; `heads` 0 means one head per 64 channels (8 for CLIP's 512)."""
        super().__init__()
        from open_clip.transformer import QuickGELU, ResidualAttentionBlock

        heads = heads or max(1, width // _HEAD_WIDTH)
        self.layers = nn.ModuleList(ResidualAttentionBlock(width, heads, act_layer=QuickGELU) for _ in range(_DEPTH))
        for block in self.layers if layer == "attention" else ():
            block.ln_2, block.mlp = nn.Identity(), None
        self.scale = nn.Parameter(torch.tensor(_INITIAL_SCALE))
        self.shift = nn.Parameter(torch.tensor(_INITIAL_SHIFT))

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the word features (B, L, D), not normalised, for the hidden states of the text tower."""
        for block in self.layers:
            hidden = run_block(block, hidden)
        return hidden

    def logits(self, features: Tensor, nouns: Tensor) -> Tensor:
        """Return logits (B, J, L), w cos(word, noun) + b (equation 3.2), of features (B, L, D) and nouns (B, J, D)."""
        words = F.normalize(features, dim=-1)
        return self.scale * (F.normalize(nouns, dim=-1) @ words.transpose(1, 2)) + self.shift


def prepend_no_noun_logits(logits: Tensor, has_noun: Tensor | None = None) -> Tensor:
    """Prepend the row "no noun" to the logits (B, J, L), fixed at 0: the extra 1 of equation 3.3.

    `has_noun` (B, J) is True for the nouns that a caption has; the others get no words.
    """
    if has_noun is not None:
        logits = logits.masked_fill(~has_noun[..., None], -torch.inf)
    return torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1)


def compute_word_masks(logits: Tensor) -> Tensor:
    """Compute word masks (B, J, L) in [0, 1] from `prepend_no_noun_logits` (B, J + 1, L), equation 3.3."""
    return logits.softmax(dim=1)[:, 1:]
