"""CoDe: an image and its caption are decomposed together, a region and a word segment for each noun.

Wu, "Image-Text Co-Decomposition for Text-Supervised Semantic Segmentation" (thesis, 2024; CVPR 2024), chapter 3.
Batches have `image` (B, 3, S, S), `caption` (B, L), `nouns` (B, J, T) and `guides` (B, J, L) token ids, `there` (B, J):
which of the nouns exist, and `labels` (B, L) of the caption's words by matching.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.nets.frozen_clip import ends_of
from stages.nets.image_segmenter import unit
from stages.nets.text_grounded import CoDe
from stages.nets.text_segmenter import word_logits, word_masks
from stages.train_text import losses
from stages.train_text.grounding import Grounded, ground
from stages.train_text.highlight import highlighted_words, kept_words
from stages.training.distributed import gathered


def loss(net: CoDe, batch: Mapping[str, Tensor], *, config: Any) -> dict[str, Tensor]:
    """Return {"loss"} of equation 3.8, and its parts, for a batch."""
    there = batch["there"].T
    with torch.no_grad():
        rows, grid = net.clip.trunk(batch["image"])
        guides = _encoded(net, batch["guides"].transpose(0, 1).flatten(0, 1))
    nouns = net.noun_prompt(net.clip, batch["nouns"].transpose(0, 1).flatten(0, 1))
    knowledge = losses.knowledge(nouns, guides, config.knowledge, there.flatten())
    nouns = nouns.unflatten(0, there.shape)
    dense, groups = net.segmenter(rows, grid), _groups(len(there), config)
    found = [ground(net, batch["image"], dense, nouns[group].flatten(0, 1), there[group].flatten(), config,
                    net.region_prompt) for group in groups]
    total = config.lambda_kg * knowledge + config.lambda_image * _mean([one.total for one in found])
    told = {"knowledge": knowledge, **{name: _mean([one.losses[name] for one in found]) for name in found[0].losses}}
    if config.co_decomposition:
        words, segments = _word_segments(net, batch, nouns, config)
        aligned = _mean([_alignment(net, one, segments[group].flatten(0, 1), there[group].flatten())
                         for one, group in zip(found, groups, strict=True)])
        total = total + config.lambda_text * words + config.lambda_hcl * aligned
        told |= {"words": words, "aligned": aligned}
    return {"loss": total, **{name: value.detach() for name, value in told.items()}}


def _groups(n_nouns: int, config: Any) -> list[slice]:
    """Return which nouns of the images are contrasted with each other."""
    if config.pairs == "all":
        return [slice(0, n_nouns)]
    return [slice(place, place + 1) for place in range(n_nouns)]


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def _encoded(net: CoDe, tokens: Tensor) -> Tensor:
    """Return the unit embeddings (N, E) of texts (N, L) as CLIP has them."""
    return F.normalize(net.clip.text_embedding(net.clip.word_embedding(tokens), ends_of(tokens)), dim=-1)


def _word_segments(net: CoDe, batch: Mapping[str, Tensor], nouns: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Return L_seg^t, and the unit embeddings (J, B, E) of the highlighted captions; or of the nouns (J, B, E)."""
    tokens, ends = batch["caption"], ends_of(batch["caption"])
    with torch.no_grad():
        embedded = net.clip.word_embedding(tokens)
        hidden = net.clip.text_hidden(embedded)
    features = net.text_segmenter(hidden)
    with torch.autocast(features.device.type, enabled=False):
        precise = features.to(net.word_prompt.dtype), nouns.transpose(0, 1).to(net.word_prompt.dtype)
        logits = word_logits(net.text_segmenter.logits(*precise), batch["there"])
        labels = batch["labels"] if config.text_labels == "match" else own_labels(logits, ends)
        words = losses.word_loss(logits, labels, config.none_weight)
    if config.regions_with == "nouns":
        return words, nouns
    masks = word_masks(logits).transpose(0, 1)
    shown = [highlighted_words(embedded, kept_words(mask, ends), net.word_prompt) for mask in masks]
    encoded = net.clip.text_embedding(torch.cat(shown), ends.repeat(len(masks)))
    return words, unit(encoded.to(net.word_prompt.dtype), -1).unflatten(0, nouns.shape[:2])


def own_labels(logits: Tensor, ends: Tensor) -> Tensor:
    """Return labels (B, L): the likeliest of the J + 1 cases of each word, section 3.2; -1 where there is no word."""
    column = torch.arange(logits.shape[-1], device=logits.device)[None]
    return logits.argmax(1).masked_fill((column == 0) | (column >= ends[:, None]), losses.IGNORE)


def _alignment(net: CoDe, found: Grounded, segments: Tensor, there: Tensor) -> Tensor:
    """Return L_hcl, equation 3.7, of this group's regions and word segments (n, E), over all processes."""
    with torch.autocast(segments.device.type, enabled=False):
        cosines = gathered(found.regions) @ gathered(segments.to(found.regions.dtype)).T
        return losses.contrast(cosines, net.log_scales["highlighted"], gathered(there.long()).bool())
