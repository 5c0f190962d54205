"""Both towers of an ordinary CLIP with all weights frozen, through which gradients flow to what is put in.

`clip_vision` and `clip_text` encode as fast as can be and keep no gradient; trainings that learn pictures, words or
prompts in front of a CLIP need this one. Images have any size whose sides are multiples of the patch.

Shapes: B images or texts, N = h w patches, L tokens, D channels of the tower, E of the embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import UsageError
from stages.nets.clip_vision import is_ordinary, resized_positions


class FrozenClip(nn.Module):
    """The frozen towers of an open_clip model. Raises UsageError for towers that are not the ordinary transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        if not is_ordinary(model.visual) or model.visual.pool_type != "tok" or not _is_causal(self.text):
            raise UsageError("training on text takes a CLIP with OpenAI's two towers",
                             "give --clip a ViT such as ViT-B-16")
        self.cell = int(model.visual.patch_size[0])
        self.channels, self.width = int(model.visual.proj.shape[0]), int(self.text.positional_embedding.shape[1])
        self.embedding, self.context = int(model.visual.proj.shape[1]), int(self.text.positional_embedding.shape[0])

    @property
    def text(self) -> Any:
        """The text tower, which in OpenAI's models is the model itself."""
        return getattr(self.model, "text", self.model)

    def train(self, mode: bool = True) -> FrozenClip:
        """Stay in evaluation mode, whatever the net around it does."""
        return super().train(False)

    def trunk(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, 1 + N, D) before the last block, class token first, and the grid (h, w).

        `images` (B, 3, H, W) are normalised. Position embeddings are resized bicubically (TCL, released code).
        """
        visual = self.model.visual
        stem = visual.conv1(images)
        grid = (int(stem.shape[-2]), int(stem.shape[-1]))
        rows = torch.cat([visual.class_embedding.to(stem.dtype).expand(len(images), 1, -1),
                          stem.flatten(2).transpose(1, 2)], dim=1)
        positions = resized_positions(visual.positional_embedding, visual.grid_size, grid, "bicubic")
        rows = visual.ln_pre(rows + positions.to(rows.dtype))
        for block in visual.transformer.resblocks[:-1]:
            rows = run_block(block, rows)
        return rows, grid

    def image_embedding(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, E) of normalised `images` at the class token, not normalised."""
        visual = self.model.visual
        rows, _ = self.trunk(images)
        rows = run_block(visual.transformer.resblocks[-1], rows)
        return visual.ln_post(rows[:, 0]) @ visual.proj

    def dense_embedding(self, rows: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the patches' embeddings (B, E, h, w) of tokens before the last block, whose attention is cut."""
        visual = self.model.visual
        rows = run_block(visual.transformer.resblocks[-1], rows, alone=True)
        return (visual.ln_post(rows[:, 1:]) @ visual.proj).transpose(1, 2).unflatten(-1, grid)

    def word_embedding(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (B, L, D) of token ids (B, L), before the positions are added."""
        return self.text.token_embedding(tokens)

    def text_hidden(self, words: Tensor) -> Tensor:
        """Return the hidden states (B, L, D) behind the last block, before the final norm, of word embeddings."""
        length = words.shape[1]
        rows = words + self.text.positional_embedding[:length]
        mask = self.text.attn_mask[:length, :length].to(rows.dtype)
        for block in self.text.transformer.resblocks:
            rows = run_block(block, rows, mask)
        return rows

    def text_embedding(self, words: Tensor, ends: Tensor) -> Tensor:
        """Return the embeddings (B, E), not normalised, of word embeddings (B, L, D) whose last is at `ends` (B,).

        The tower is causal: what stands behind the last end is cut off before, and nothing changes.
        """
        hidden = self.text_hidden(words[:, :int(ends.max()) + 1])
        last = hidden[torch.arange(len(hidden), device=hidden.device), ends]
        normed, projection = self.text.ln_final(last), self.text.text_projection
        return projection(normed) if isinstance(projection, nn.Module) else normed @ projection


def _is_causal(text: Any) -> bool:
    wanted = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection",
              "attn_mask")
    return (all(getattr(text, name, None) is not None for name in wanted)
            and getattr(text, "cls_emb", None) is None and not getattr(text, "use_pad_mask", False))


def ends_of(tokens: Tensor) -> Tensor:
    """Return (B,): the place of the end of each text of token ids (B, L), which has the highest id."""
    return tokens.argmax(dim=-1)


def run_block(block: Any, rows: Tensor, mask: Tensor | None = None, *, alone: bool = False) -> Tensor:
    """Return the output (B, L, D) of a residual attention block of open_clip on `rows`.

    `mask` (L, L) is added to the attention's logits. With `alone` every token attends to itself only, as MaskCLIP
    (Zhou et al., ECCV 2022) has the last block; the residual path and the MLP stay, as in TCL. A block without an
    MLP ends behind its attention.
    """
    attention = block.attn
    normed = block.ln_1(rows)
    if alone:
        width = rows.shape[-1]
        context = F.linear(normed, attention.in_proj_weight[2 * width:], attention.in_proj_bias[2 * width:])
    else:
        joined = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (one.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
                             for one in joined.chunk(3, dim=-1))
        mask = None if mask is None else mask.to(query.dtype)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
    rows = rows + block.ls_1(attention.out_proj(context))
    return rows if block.mlp is None else rows + block.ls_2(block.mlp(block.ln_2(rows)))
