"""Fill images and captions outside a mask with the learnt highlighting prompts of CoDe.

Wu, CoDe (thesis, 2024), section 3.3. Blank regions and words are unlike anything that CLIP was trained on, so their
fill is learnt. A prompt of zeros is the baseline: the mean colour, and no word.

Shapes: B images or texts, L tokens, D channels, (H, W) image, (h, w) map.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def highlight_images(images: Tensor, masks: Tensor, prompt: Tensor) -> Tensor:
    """Return the images (B, 3, H, W) inside `masks` (B, 1, h, w) and the prompt (1, 3, S, S) outside: equation 3.4.

    Images are normalised. Masks are resized by nearest neighbour, the prompt bilinearly (released code).
    """
    size = images.shape[-2:]
    masks = F.interpolate(masks, size, mode="nearest")
    return images * masks + F.interpolate(prompt, size, mode="bilinear", align_corners=False) * (1 - masks)


def unmask_special_tokens(masks: Tensor, ends: Tensor) -> Tensor:
    """Return the word masks (B, L) with 1 at the start token, and from the end token (B,) on (released code)."""
    column = torch.arange(masks.shape[1], device=masks.device)[None]
    return masks.masked_fill((column == 0) | (column >= ends[:, None]), 1.0)


def highlight_words(words: Tensor, masks: Tensor, prompt: Tensor) -> Tensor:
    """Return the words (B, L, D) inside `masks` (B, L) and the prompt (L, D) outside: equation 3.5.

    Words are token embeddings, before position embeddings are added.
    """
    masks = masks[..., None]
    return words * masks + prompt[:words.shape[1]] * (1 - masks)
