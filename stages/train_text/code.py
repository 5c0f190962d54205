"""Compute the losses of CoDe: decompose images and captions together, into a region and a word segment per noun.

Wu, "Image-Text Co-Decomposition for Text-Supervised Semantic Segmentation" (thesis, 2024; CVPR 2024), chapter 3.
Batches have `image` (B, 3, S, S); `caption` (B, L), `nouns` (B, J, T) and `guides` (B, J, L) token ids, where guides
are the nouns in a template; `valid` (B, J), which of the nouns exist; and `labels` (B, L) of the caption's words by
matching.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.nets.frozen_clip import find_text_ends
from stages.nets.image_segmenter import scale_to_unit_length
from stages.nets.text_grounded import CoDe
from stages.nets.text_segmenter import compute_word_masks, prepend_no_noun_logits
from stages.train_text import losses
from stages.train_text.grounding import GroundingLosses, compute_grounding_losses
from stages.train_text.highlight import highlight_words, unmask_special_tokens
from stages.training.distributed import gather_across_ranks


def loss(net: CoDe, batch: Mapping[str, Tensor], *, config: Any) -> dict[str, Tensor]:
    """Return {"loss", ...} for a batch: equation 3.8 and its terms."""
    valid = batch["valid"].T
    with torch.no_grad():
        rows, grid = net.clip.forward_trunk(batch["image"])
        guides = _encode_texts(net, batch["guides"].transpose(0, 1).flatten(0, 1))
    nouns = net.noun_prompt(net.clip, batch["nouns"].transpose(0, 1).flatten(0, 1))
    knowledge = losses.knowledge_loss(nouns, guides, config.knowledge, valid.flatten())
    nouns = nouns.unflatten(0, valid.shape)
    dense, groups = net.segmenter(rows, grid), _group_nouns(len(valid), config)
    groundings = [compute_grounding_losses(net, batch["image"], dense, nouns[group].flatten(0, 1),
                                           valid[group].flatten(), config, net.region_prompt) for group in groups]
    total = config.lambda_kg * knowledge + config.lambda_image * _average([grounding.total for grounding in groundings])
    terms = {"knowledge": knowledge, **{name: _average([grounding.losses[name] for grounding in groundings])
                                        for name in groundings[0].losses}}
    if config.co_decomposition:
        words, segments = _segment_words(net, batch, nouns, config)
        aligned = _average([_compute_alignment_loss(net, grounding, segments[group].flatten(0, 1),
                                                    valid[group].flatten())
                            for grounding, group in zip(groundings, groups, strict=True)])
        total = total + config.lambda_text * words + config.lambda_hcl * aligned
        terms |= {"words": words, "aligned": aligned}
    return {"loss": total, **{name: value.detach() for name, value in terms.items()}}


def _group_nouns(num_nouns: int, config: Any) -> list[slice]:
    """Return the groups of nouns that the contrastive losses compare with each other."""
    if config.pairs == "all":
        return [slice(0, num_nouns)]
    return [slice(index, index + 1) for index in range(num_nouns)]


def _average(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def _encode_texts(net: CoDe, tokens: Tensor) -> Tensor:
    """Return CLIP's unit embeddings (N, E) of texts (N, L)."""
    return F.normalize(net.clip.encode_text(net.clip.embed_tokens(tokens), find_text_ends(tokens)), dim=-1)


def _segment_words(net: CoDe, batch: Mapping[str, Tensor], nouns: Tensor, config: Any) -> tuple[Tensor, Tensor]:
    """Return L_seg^t and the unit embeddings (J, B, E) of the highlighted captions.

    With `config.regions_with` "nouns", the embeddings are those of the nouns (J, B, E) instead.
    """
    tokens, ends = batch["caption"], find_text_ends(batch["caption"])
    with torch.no_grad():
        embedded = net.clip.embed_tokens(tokens)
        hidden = net.clip.run_text_blocks(embedded)
    features = net.text_segmenter(hidden)
    with torch.autocast(features.device.type, enabled=False):
        dtype = net.word_prompt.dtype
        word_logits = net.text_segmenter.logits(features.to(dtype), nouns.transpose(0, 1).to(dtype))
        logits = prepend_no_noun_logits(word_logits, batch["valid"])
        labels = batch["labels"] if config.text_labels == "match" else predict_word_labels(logits, ends)
        words = losses.word_loss(logits, labels, config.none_weight)
    if config.regions_with == "nouns":
        return words, nouns
    masks = compute_word_masks(logits).transpose(0, 1)
    highlighted = [highlight_words(embedded, unmask_special_tokens(mask, ends), net.word_prompt) for mask in masks]
    encoded = net.clip.encode_text(torch.cat(highlighted), ends.repeat(len(masks)))
    return words, scale_to_unit_length(encoded.to(net.word_prompt.dtype), -1).unflatten(0, nouns.shape[:2])


def predict_word_labels(logits: Tensor, ends: Tensor) -> Tensor:
    """Return labels (B, L): the argmax over the J + 1 cases of each word, section 3.2; -1 where there is no word."""
    column = torch.arange(logits.shape[-1], device=logits.device)[None]
    return logits.argmax(1).masked_fill((column == 0) | (column >= ends[:, None]), losses.IGNORE_INDEX)


def _compute_alignment_loss(net: CoDe, grounding: GroundingLosses, segments: Tensor, valid: Tensor) -> Tensor:
    """Return L_hcl, equation 3.7, of a group's regions and word segments (n, E), over all processes."""
    regions = grounding.regions
    with torch.autocast(segments.device.type, enabled=False):
        cosines = gather_across_ranks(regions) @ gather_across_ranks(segments.to(regions.dtype)).T
        return losses.symmetric_info_nce(cosines, net.log_scales["highlighted"],
                                         gather_across_ranks(valid.long()).bool())
