"""The region and the word highlighting prompt of CoDe: what fills the places outside a mask.

Wu, CoDe (thesis, 2024), section 3.3. Blank regions and words are unlike anything that CLIP has seen; what is put there
instead is learnt. A prompt of zeros is the baseline: the mean colour, and no word.

Shapes: B images or texts, L tokens, D channels, (H, W) image, (h, w) map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def highlighted_images(images: Tensor, masks: Tensor, prompt: Tensor) -> Tensor:
    """Return the images (B, 3, H, W) inside `masks` (B, 1, h, w) and the prompt (1, 3, S, S) outside: equation 3.4.

    Images are normalised. Masks get to their size by the nearest cell, the prompt bilinearly (released code).
    """
    size = images.shape[-2:]
    masks = F.interpolate(masks, size, mode="nearest")
    return images * masks + F.interpolate(prompt, size, mode="bilinear", align_corners=False) * (1 - masks)


def kept_words(masks: Tensor, ends: Tensor) -> Tensor:
    """Return word masks (B, L) that are 1 at the start, at the end (B,) of the text and behind it (released code)."""
    column = torch.arange(masks.shape[1], device=masks.device)[None]
    return masks.masked_fill((column == 0) | (column >= ends[:, None]), 1.0)


def highlighted_words(words: Tensor, masks: Tensor, prompt: Tensor) -> Tensor:
    """Return the words (B, L, D) inside `masks` (B, L) and the prompt (L, D) outside: equation 3.5.

    Words are embeddings before their positions are added.
    """
    masks = masks[..., None]
    return words * masks + prompt[:words.shape[1]] * (1 - masks)
