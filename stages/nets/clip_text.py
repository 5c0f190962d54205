"""The text tower of a CLIP, which encodes prompts as unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.errors import BadData

_BATCH_SIZE = 256


class TextTower:
    """The frozen text tower of an open_clip model; it keeps the vector of each prompt in memory."""

    def __init__(self, model: Any, tokenizer: Callable[..., Tensor]) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._tower = getattr(model, "text", model)
        self._cached_vectors: dict[str, Tensor] = {}

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Encode P prompts as unit vectors (P, E). Raises BadData for a prompt with too many tokens for the tower."""
        return F.normalize(self.encode_unnormalised(prompts), dim=-1)

    @torch.inference_mode()
    def encode_unnormalised(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts as vectors (P, E) that are not normalised. Raises the same errors as `encode`."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._cached_vectors]
        # Prompts of similar length share a batch, since a batch is cut to its longest prompt.
        tokens = {prompt: self._tokenise(prompt) for prompt in missing}
        missing.sort(key=lambda prompt: _count_tokens(tokens[prompt]))
        for start in range(0, len(missing), _BATCH_SIZE):
            batch = missing[start:start + _BATCH_SIZE]
            vectors = self._encode_tokens(torch.cat([tokens[prompt] for prompt in batch]))
            self._cached_vectors.update(zip(batch, vectors.float(), strict=True))
        return torch.stack([self._cached_vectors[prompt] for prompt in prompts])

    def _tokenise(self, prompt: str) -> Tensor:
        """Return the token ids (1, T) of a prompt. Raises BadData for too many tokens."""
        encode = getattr(self._tokenizer, "encode", None)
        context_length = getattr(self._tokenizer, "context_length", None)
        if encode and context_length and (num_tokens := len(encode(prompt)) + 2) > context_length:
            raise BadData(f"the prompt {prompt[:60]!r}... has {num_tokens} tokens but the text tower reads at most "
                          f"{context_length}", "Shorten the class name or its words (--words, --names FILE.toml)")
        return self._tokenizer([prompt])

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        """Run the tower on token ids (B, T), cut after the longest prompt, which is exact for a causal tower."""
        tower = self._tower
        device = self._model.logit_scale.device
        if not self._is_causal():
            return self._model.encode_text(tokens.to(device))
        longest = max(map(_count_tokens, tokens.split(1)))
        tokens = tokens[:, :longest].to(device)
        hidden = tower.token_embedding(tokens) + tower.positional_embedding[:longest]
        hidden = tower.ln_final(tower.transformer(hidden, attn_mask=tower.attn_mask[:longest, :longest]))
        ends = hidden[torch.arange(len(hidden), device=device), tokens.argmax(dim=-1)]
        projection = tower.text_projection
        if projection is None:
            return ends
        return projection(ends) if isinstance(projection, torch.nn.Module) else ends @ projection

    def _is_causal(self) -> bool:
        """Return whether this is the standard tower: causal, and pooled at the end of the prompt."""
        tower = self._tower
        pool = getattr(tower, "pool_type", getattr(self._model, "text_pool_type", ""))
        has_class_token = getattr(tower, "cls_emb", None) is not None or getattr(tower, "use_pad_mask", False)
        return getattr(tower, "attn_mask", None) is not None and pool == "argmax" and not has_class_token


def _count_tokens(tokens: Tensor) -> int:
    """Return the number of token ids (1, T) up to and including the end-of-text token, which has the highest id."""
    return int(tokens.argmax()) + 1
