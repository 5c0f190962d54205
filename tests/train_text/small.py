"""Provide a tiny CLIP, and batches like those of `train-text`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from stages.nets.text_grounded import TextGroundedNet, build_text_grounded_net
from stages.train_text.config import CodeConfig, TclConfig

CLIP = {"embed_dim": 16, "quick_gelu": True,
        "vision_cfg": {"image_size": 16, "layers": 2, "width": 16, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 14, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 2}}
END_TOKEN = 49407
# Soft masks: hard ones would be random.
TCL, CODE = TclConfig(region_mask="soft"), CodeConfig(region_mask="soft", n_context=4, crop_size=16)


def build_net(head: str, **architecture: Any) -> TextGroundedNet:
    """Return a network with open gates and nonzero prompts, so that all of its parts have an effect."""
    torch.manual_seed(0)
    parts = {"clip": CLIP, "head": head, "convolutions": 1, "n_context": 4, "noun_place": "before",
             "text_layer": "block", "region_size": 16, **architecture}
    net = build_text_grounded_net(parts)
    for name, parameter in net.named_parameters():
        if parameter.requires_grad and (name.endswith("gate") or name.endswith("_prompt")):
            parameter.data = parameter.data + 0.3 * torch.randn_like(parameter.data)
    return net


def draw_tokens(num_texts: int, num_words: int, length: int, generator: torch.Generator) -> torch.Tensor:
    """Return token ids (num_texts, length): a start token, words, an end token, padding."""
    ids = torch.zeros(num_texts, length, dtype=torch.long)
    ids[:, 0] = END_TOKEN - 1
    ids[:, 1:1 + num_words] = torch.randint(1, 400, (num_texts, num_words), generator=generator)
    ids[:, 1 + num_words] = END_TOKEN
    return ids


def draw_batch(num_samples: int, valid: list[list[bool]] | None = None) -> dict[str, torch.Tensor]:
    """Return a batch of samples with two nouns each."""
    generator = torch.Generator().manual_seed(1)
    nouns = draw_tokens(2 * num_samples, 1, 10, generator).unflatten(0, (num_samples, 2))
    caption = draw_tokens(num_samples, 5, 14, generator)
    caption[:, 2] = nouns[:, 0, 1]
    labels = torch.full((num_samples, 14), -1)
    labels[:, 2], labels[:, 4] = 1, 0
    return {"image": torch.randn(num_samples, 3, 16, 16, generator=generator), "caption": caption, "nouns": nouns,
            "guides": draw_tokens(2 * num_samples, 4, 14, generator).unflatten(0, (num_samples, 2)), "labels": labels,
            "valid": torch.tensor(valid if valid else [[True, True]] * num_samples)}


def replace_settings(config: Any, **settings: Any) -> Any:
    """Return a copy of `config` with other settings."""
    return replace(config, **settings)
