"""Both towers of a standard CLIP with frozen weights, through which gradients flow back to the inputs.

`clip_vision` and `clip_text` are optimised for speed and keep no gradients. Trainings that learn images, words or
prompts as inputs of a CLIP use this module. Images may have any size whose sides are multiples of the patch size.

Shapes: B images or texts, N = h w patches, L tokens, D channels of the tower, E channels of the embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import UsageError
from stages.nets.clip_vision import is_plain_vit, resize_positions


class FrozenClip(nn.Module):
    """The frozen towers of an open_clip model. Raises UsageError unless they are OpenAI's standard transformers."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        if not is_plain_vit(model.visual) or model.visual.pool_type != "tok" or not _is_causal(self.text):
            raise UsageError("training on text needs a CLIP with OpenAI's image and text transformers",
                             "Use --clip with a ViT such as ViT-B-16")
        self.cell = int(model.visual.patch_size[0])
        self.channels, self.embed_dim = map(int, model.visual.proj.shape)
        self.context_length, self.text_width = map(int, self.text.positional_embedding.shape)

    @property
    def text(self) -> Any:
        """The text tower; in OpenAI's models its layers belong to the model itself."""
        return getattr(self.model, "text", self.model)

    def release_text_tower(self) -> None:
        """Release the memory of the text tower, when all words are encoded: 250 MB of a ViT-B."""
        text = self.text
        text.transformer = text.token_embedding = None

    def train(self, mode: bool = True) -> FrozenClip:
        """Stay in evaluation mode, whatever the mode of the network around it."""
        return super().train(False)

    def forward_trunk(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens (B, 1 + N, D) before the last block, class token first, and the grid (h, w).

        `images` (B, 3, H, W) are normalised. Position embeddings are resized bicubically, as in TCL's released code.
        """
        visual = self.model.visual
        stem = visual.conv1(images)
        grid = (int(stem.shape[-2]), int(stem.shape[-1]))
        tokens = torch.cat([visual.class_embedding.to(stem.dtype).expand(len(images), 1, -1),
                            stem.flatten(2).transpose(1, 2)], dim=1)
        positions = resize_positions(visual.positional_embedding, visual.grid_size, grid, "bicubic")
        tokens = visual.ln_pre(tokens + positions.to(tokens.dtype))
        for block in visual.transformer.resblocks[:-1]:
            tokens = run_block(block, tokens)
        return tokens, grid

    def encode_image(self, images: Tensor) -> Tensor:
        """Encode normalised `images` at the class token as embeddings (B, E), which are not normalised."""
        visual = self.model.visual
        tokens, _ = self.forward_trunk(images)
        tokens = run_block(visual.transformer.resblocks[-1], tokens)
        return visual.ln_post(tokens[:, 0]) @ visual.proj

    def encode_patches(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Encode patches as embeddings (B, E, h, w), without attention between tokens in the last block.

        `tokens` (B, 1 + N, D) and `grid` are those of `forward_trunk`.
        """
        visual = self.model.visual
        tokens = run_block(visual.transformer.resblocks[-1], tokens, self_only=True)
        return (visual.ln_post(tokens[:, 1:]) @ visual.proj).transpose(1, 2).unflatten(-1, grid)

    def embed_tokens(self, tokens: Tensor) -> Tensor:
        """Return the embeddings (B, L, D) of token ids (B, L), without position embeddings."""
        return self.text.token_embedding(tokens)

    def run_text_blocks(self, words: Tensor) -> Tensor:
        """Return the hidden states (B, L, D) of word embeddings after the last block, before the final norm."""
        length = words.shape[1]
        hidden = words + self.text.positional_embedding[:length]
        mask = self.text.attn_mask[:length, :length].to(hidden.dtype)
        for block in self.text.transformer.resblocks:
            hidden = run_block(block, hidden, mask)
        return hidden

    def encode_text(self, words: Tensor, ends: Tensor) -> Tensor:
        """Encode word embeddings (B, L, D) as text embeddings (B, E), which are not normalised.

        `ends` (B,) is the index of the last token of each text. Tokens after the last of all ends are cut off first,
        which changes nothing, since the tower is causal.
        """
        hidden = self.run_text_blocks(words[:, :int(ends.max()) + 1])
        last = hidden[torch.arange(len(hidden), device=hidden.device), ends]
        normed, projection = self.text.ln_final(last), self.text.text_projection
        return projection(normed) if isinstance(projection, nn.Module) else normed @ projection


def _is_causal(text: Any) -> bool:
    """Return whether this is the standard causal text tower, with all its parts and without a class token."""
    parts = ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection", "attn_mask")
    return (all(getattr(text, name, None) is not None for name in parts)
            and getattr(text, "cls_emb", None) is None and not getattr(text, "use_pad_mask", False))


def find_text_ends(tokens: Tensor) -> Tensor:
    """Return the index (B,) of the end-of-text token, which has the highest id, in each text of token ids (B, L)."""
    return tokens.argmax(dim=-1)


def run_block(block: Any, tokens: Tensor, mask: Tensor | None = None, *, self_only: bool = False) -> Tensor:
    """Return the output (B, L, D) of a residual attention block of open_clip for `tokens` (B, L, D).

    `mask` (L, L) is added to the attention logits. With `self_only` every token attends to itself only, as in the last
    block of MaskCLIP (Zhou et al., ECCV 2022); the residual path and the MLP stay, as in TCL. A block without an MLP
    ends after its attention.
    """
    attention = block.attn
    normed = block.ln_1(tokens)
    if self_only:
        width = tokens.shape[-1]
        context = F.linear(normed, attention.in_proj_weight[2 * width:], attention.in_proj_bias[2 * width:])
    else:
        qkv = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
                             for part in qkv.chunk(3, dim=-1))
        mask = None if mask is None else mask.to(query.dtype)
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)
    tokens = tokens + block.ls_1(attention.out_proj(context))
    return tokens if block.mlp is None else tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
