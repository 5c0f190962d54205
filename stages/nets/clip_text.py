"""The text tower of a CLIP: prompts to unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.errors import BadData

_BATCH = 256


class TextTower:
    """The frozen text tower of an open_clip model; each prompt is encoded once."""

    def __init__(self, model: Any, tokenizer: Callable[..., Tensor]) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._tower = getattr(model, "text", model)
        self._known: dict[str, Tensor] = {}

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return unit vectors (P, E). Raises BadData for a prompt that is longer than the tower can read."""
        return F.normalize(self.features(prompts), dim=-1)

    @torch.inference_mode()
    def features(self, prompts: Sequence[str]) -> Tensor:
        """Return the vectors (P, E) as the tower gives them, not normalised. Raises as `encode` does."""
        wanted = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        # Prompts of like length are encoded together: what is behind the end of a prompt does not reach it.
        tokens = {prompt: self._tokens(prompt) for prompt in wanted}
        wanted.sort(key=lambda prompt: _length(tokens[prompt]))
        for start in range(0, len(wanted), _BATCH):
            some = wanted[start:start + _BATCH]
            found = self._encoded(torch.cat([tokens[prompt] for prompt in some]))
            self._known.update(zip(some, found.float(), strict=True))
        return torch.stack([self._known[prompt] for prompt in prompts])

    def _tokens(self, prompt: str) -> Tensor:
        encode = getattr(self._tokenizer, "encode", None)
        context = getattr(self._tokenizer, "context_length", None)
        if encode and context and (count := len(encode(prompt)) + 2) > context:
            raise BadData(f"the prompt {prompt[:60]!r}... has {count} tokens, the text tower reads {context}",
                          "shorten the class name or its words (--words, --names FILE.toml)")
        return self._tokenizer([prompt])

    def _encoded(self, tokens: Tensor) -> Tensor:
        """Run the tower on tokens cut behind the longest prompt: it is causal, so that is exact."""
        tower = self._tower
        device = self._model.logit_scale.device
        if not self._is_causal():
            return self._model.encode_text(tokens.to(device))
        longest = max(map(_length, tokens.split(1)))
        tokens = tokens[:, :longest].to(device)
        rows = tower.token_embedding(tokens) + tower.positional_embedding[:longest]
        rows = tower.ln_final(tower.transformer(rows, attn_mask=tower.attn_mask[:longest, :longest]))
        ends = rows[torch.arange(len(rows), device=device), tokens.argmax(dim=-1)]
        projection = tower.text_projection
        if projection is None:
            return ends
        return projection(ends) if isinstance(projection, torch.nn.Module) else ends @ projection

    def _is_causal(self) -> bool:
        """Say whether this is the ordinary tower: causal, pooled at the end of the prompt."""
        tower = self._tower
        pool = getattr(tower, "pool_type", getattr(self._model, "text_pool_type", ""))
        others = getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False)
        return getattr(tower, "attn_mask", None) is not None and pool == "argmax" and not others


def _length(tokens: Tensor) -> int:
    """Return the number of tokens (1, T) up to the end of the prompt, which has the highest id."""
    return int(tokens.argmax()) + 1
