"""A tiny CLIP, and batches as `train-text` makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from stages.nets.text_grounded import TextGrounded, build_grounded
from stages.train_text.config import CodeConfig, TclConfig

CLIP = {"embed_dim": 16, "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 14, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 2}}
END = 49407
# Soft masks, so that nothing is drawn.
TCL, CODE = TclConfig(region_mask="soft"), CodeConfig(region_mask="soft", n_context=4, crop_size=16)


def net_of(head: str, **more: Any) -> TextGrounded:
    """Return a net with open gates and prompts that are not zero, so that everything is in use."""
    torch.manual_seed(0)
    parts = {"clip": CLIP, "head": head, "convolutions": 1, "n_context": 4, "noun_place": "before",
             "text_layer": "block", "region_size": 16, **more}
    net = build_grounded(parts)
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and (name.endswith("gate") or name.endswith("_prompt")):
            parameter.data = parameter.data + 0.3 * torch.randn_like(parameter.data)
    return net


def tokens_of(count: int, words: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Return ids (count, length): a start, so many words, an end, padding."""
    ids = torch.zeros(count, length, dtype=torch.long)
    ids[:, 0] = END - 1
    ids[:, 1:1 + words] = torch.randint(1, 400, (count, words), generator=generator)
    ids[:, 1 + words] = END
    return ids


def batch_of(count: int, there: list[list[bool]] | None = None) -> dict[str, torch.Tensor]:
    """Return a batch of `count` samples of two nouns."""
    draws = torch.Generator().manual_seed(1)
    nouns = tokens_of(2 * count, 1, 10, draws).unflatten(0, (count, 2))
    caption = tokens_of(count, 5, 14, draws)
    caption[:, 2] = nouns[:, 0, 1]
    labels = torch.full((count, 14), -1)
    labels[:, 2], labels[:, 4] = 1, 0
    return {"image": torch.randn(count, 3, 16, 16, generator=draws), "caption": caption, "nouns": nouns,
            "guides": tokens_of(2 * count, 4, 14, draws).unflatten(0, (count, 2)), "labels": labels,
            "there": torch.tensor(there if there else [[True, True]] * count)}


def changed(config: Any, **settings: Any) -> Any:
    """Return settings with others."""
    return replace(config, **settings)
