"""Embeddings of nouns in a learnt context (KgCoOp).

Yao et al., "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization" (CVPR 2023): context vectors
shared by all nouns replace a hand-written prompt template; the text tower stays frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.nets.frozen_clip import FrozenClip, find_text_ends

CONTEXT_POSITIONS = ("before", "after")


class NounPrompt(nn.Module):
    """The learnt context (M, D), initialised with the word embeddings of the token ids `initial_tokens` (M,)."""

    def __init__(self, clip: FrozenClip, initial_tokens: Tensor, context_position: str) -> None:
        super().__init__()
        self.context_position = context_position
        self.context = nn.Parameter(clip.embed_tokens(initial_tokens).detach().clone())

    def forward(self, clip: FrozenClip, tokens: Tensor) -> Tensor:
        """Return unit vectors (N, E) of nouns, given as token ids (N, T) with start, end and padding."""
        prompts, ends = self.build_prompts(clip, tokens)
        return F.normalize(clip.encode_text(prompts, ends), dim=-1)

    def build_prompts(self, clip: FrozenClip, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the word embeddings (N, L, D) of the nouns in their context, and the positions (N,) of their ends."""
        ids, is_context = insert_context(tokens, len(self.context), self.context_position, clip.context_length)
        embeddings = clip.embed_tokens(ids)
        context = self.context.to(embeddings.dtype).repeat(len(ids), 1)
        return embeddings.masked_scatter(is_context[..., None], context), find_text_ends(ids)


def insert_context(tokens: Tensor, num_context: int, context_position: str, length: int) -> tuple[Tensor, Tensor]:
    """Return ids (N, L) with `num_context` free positions next to the noun, and the mask (N, L) of these positions.

    `before` inserts them between start token and noun (KgCoOp), `after` between noun and end token. `tokens` (N, T) are
    cut to L <= `length`; the end of a noun must not be cut off: nouns have at most L - num_context - 2 tokens.
    """
    num_texts, width = tokens.shape
    ends = find_text_ends(tokens)[:, None]
    start = torch.ones_like(ends) if context_position == "before" else ends
    column = torch.arange(min(length, width + num_context), device=tokens.device)[None].expand(num_texts, -1)
    is_context = (column >= start) & (column < start + num_context)
    source = torch.where(column < start, column, column - num_context).clamp(0, width - 1)
    return tokens.gather(1, source).masked_fill(is_context, 0), is_context
