"""Embeddings of nouns in a learnt context (KgCoOp).

Yao et al., "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization" (CVPR 2023): context vectors
shared by all nouns take the place of a hand-written template; the text tower stays frozen.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.nets.frozen_clip import FrozenClip, ends_of

PLACES = ("before", "after")


class NounPrompt(nn.Module):
    """The learnt context (M, D), which starts as the word embeddings of the token ids `first` (M,)."""

    def __init__(self, clip: FrozenClip, first: Tensor, place: str) -> None:
        super().__init__()
        self.place = place
        self.context = nn.Parameter(clip.word_embedding(first).detach().clone())

    def forward(self, clip: FrozenClip, tokens: Tensor) -> Tensor:
        """Return unit vectors (N, E) of nouns, given as token ids (N, T) with start, end and padding."""
        prompts, ends = self.prompts(clip, tokens)
        return F.normalize(clip.text_embedding(prompts, ends), dim=-1)

    def prompts(self, clip: FrozenClip, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the word embeddings (N, L, D) of the nouns in their context, and the places (N,) of their ends."""
        ids, where = with_context(tokens, len(self.context), self.place, clip.context)
        words = clip.word_embedding(ids)
        words = words.masked_scatter(where[..., None], self.context.to(words.dtype).repeat(len(ids), 1))
        return words, ends_of(ids)


def with_context(tokens: Tensor, count: int, place: str, length: int) -> tuple[Tensor, Tensor]:
    """Return ids (N, L) with `count` free places beside the noun, and the mask (N, L) of these places.

    `before` puts them between start and noun (KgCoOp), `after` between noun and end. `tokens` (N, T) are cut so that
    L = `length` at most; a noun's end must not be cut off: nouns have at most L - count - 2 tokens.
    """
    n_texts, width = tokens.shape
    ends = ends_of(tokens)[:, None]
    at = torch.ones_like(ends) if place == "before" else ends
    column = torch.arange(min(length, width + count), device=tokens.device)[None].expand(n_texts, -1)
    where = (column >= at) & (column < at + count)
    source = torch.where(column < at, column, column - count).clamp(0, width - 1)
    return tokens.gather(1, source).masked_fill(where, 0), where
