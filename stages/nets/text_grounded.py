"""Networks that find in an image what a text names: TCL's, and CoDe's with its text segmenter and prompts.

A net's file is whole: it holds the frozen CLIP, so that `segment` needs nothing besides. Papers: see
`image_segmenter`, `text_segmenter` and `noun_prompt`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.errors import BadData, UsageError
from stages.nets.clip import empty_model, text_tokenizer
from stages.nets.clip_text import TextTower
from stages.nets.frozen_clip import FrozenClip
from stages.nets.image_segmenter import STRIDE_GAIN, ImageSegmenter, similarity
from stages.nets.noun_prompt import NounPrompt
from stages.nets.prompts import word_features
from stages.nets.text_segmenter import TextSegmenter

TASK = "text-segmentation"
TEMPERATURE = 0.07
_KEPT_SCALE, _KEPT_SHIFT = 10.0, 0.25
_FIRST_WORDS = ("A", "photo", "of")
_BATCH = 256


class TextGrounded(nn.Module):
    """TCL: a frozen CLIP and the image segmenter learnt on it, with the scales of its two contrasts.

    `architecture` says all that is needed to build it again: `clip` (a model config of open_clip), `head` tcl or
    code, `convolutions` a doubling; `mean` and `std` are the input's.
    """

    task = TASK
    contrasts: tuple[str, ...] = ("image", "map")

    def __init__(self, model: Any, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        self.architecture = dict(architecture)
        self.clip = FrozenClip(model)
        self.segmenter = ImageSegmenter(self.clip, architecture["convolutions"])
        start = math.log(1 / TEMPERATURE)
        self.log_scales = nn.ParameterDict({name: nn.Parameter(torch.tensor(start)) for name in self.contrasts})
        self.stride = self.clip.cell // STRIDE_GAIN
        self.mean: tuple[float, ...] = ()
        self.std: tuple[float, ...] = ()

    @torch.inference_mode()
    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the learnt dense embedding (B, E, 4h, 4w) of normalised `images`, and CLIP's own (B, E, h, w).

        The trunk runs once for both.
        """
        rows, grid = self.clip.trunk(images)
        return self.segmenter(rows, grid), self.clip.dense_embedding(rows, grid)

    @torch.inference_mode()
    def masks(self, dense: Tensor, texts: Tensor) -> Tensor:
        """Return the soft masks (B, N, 4h, 4w) of a learnt embedding (B, E, 4h, 4w) for texts (N, E)."""
        return self.segmenter.logits(dense, texts).sigmoid()

    def word_vectors(self, words: Sequence[str], templates: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return unit vectors (N, E) of words for the learnt map, and for CLIP's own.

        Both are means over `templates`, of vectors that are not normalised (TCL's released code). Raises BadData for
        words that are too long.
        """
        found = word_features(self._tower, words, templates, unit=False)
        return found, found

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the text tower: texts to ids. It is made once: its tables take 0.1 s."""
        return text_tokenizer(self.architecture["clip"])

    @property
    def _tower(self) -> TextTower:
        return TextTower(self.clip.model, self.tokenizer)


class CoDe(TextGrounded):
    """CoDe: TCL with nouns in a learnt context, the text segmenter, and prompts for what is outside the masks.

    `architecture` adds `n_context` and `noun_place` of the context, `text_layer` of the text segmenter and
    `region_size`, the side of the region prompt. Prompts start at 0.
    """

    contrasts = ("image", "map", "highlighted")

    def __init__(self, model: Any, architecture: Mapping[str, Any]) -> None:
        super().__init__(model, architecture)
        if self.clip.width != self.clip.embedding:
            raise UsageError(f"the text tower is {self.clip.width} wide and the embedding {self.clip.embedding}: CoDe "
                             "compares words with nouns", "give --clip a ViT of OpenAI, where both are the same")
        count, size = architecture["n_context"], architecture["region_size"]
        self.noun_prompt = NounPrompt(self.clip, self._first_words(count), architecture["noun_place"])
        self.text_segmenter = TextSegmenter(self.clip.width, architecture["text_layer"])
        self.region_prompt = nn.Parameter(torch.zeros(1, 3, size, size))
        self.word_prompt = nn.Parameter(torch.zeros(self.clip.context, self.clip.width))

    def word_vectors(self, words: Sequence[str], templates: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return unit vectors (N, E) of words in the learnt context, for the learnt map, and means over `templates`.

        The mean is of unit vectors (CoDe's released code). Raises BadData for words that are too long.
        """
        return self.noun_vectors(words), word_features(self._tower, words, templates)

    @torch.inference_mode()
    def noun_vectors(self, words: Sequence[str]) -> Tensor:
        """Return unit vectors (N, E) of words in the learnt context. Raises BadData for words that are too long."""
        tokenizer, length = self.tokenizer, self.clip.context - self.architecture["n_context"]
        for word in words:
            if (count := len(tokenizer.encode(word)) + 2) > length:
                raise BadData(f"the words {word[:60]!r}... have {count} tokens, the net reads {length} in its context",
                              "shorten the class name or its words (--words, --names FILE.toml)")
        tokens = tokenizer(list(words), context_length=length).to(self.segmenter.projection.device)
        return torch.cat([self.noun_prompt(self.clip, some) for some in tokens.split(_BATCH)])

    def learn(self, *, word_prompt: bool, region_prompt: bool, text: bool) -> None:
        """Say what of CoDe's own is learnt: the prompts, and whatever decomposes the text."""
        self.word_prompt.requires_grad_(word_prompt)
        self.region_prompt.requires_grad_(region_prompt)
        self.text_segmenter.requires_grad_(text)
        self.log_scales["highlighted"].requires_grad_(text)

    def _first_words(self, count: int) -> Tensor:
        """Return ids (M,) of "A photo of" and letters x, the first words of the context (CoDe, released code)."""
        words = [*_FIRST_WORDS, *["x"] * max(0, count - len(_FIRST_WORDS))][:count]
        return torch.tensor([one for word in words for one in self.tokenizer.encode(word)], dtype=torch.long)


def with_knowledge(masks: Tensor, own: Tensor, texts: Tensor, share: float) -> Tensor:
    """Return the masks (B, N, H, W) mixed with `share` of those of CLIP's own map (B, E, h, w) and texts (N, E).

    The latter are sigmoid(10 (cosine - 0.25)), resized bilinearly: what TCL and CoDe do when they are tested, with a
    share of 0.3 (released code).
    """
    kept = (_KEPT_SCALE * (similarity(own, texts) - _KEPT_SHIFT)).sigmoid()
    kept = F.interpolate(kept, masks.shape[-2:], mode="bilinear", align_corners=False)
    return (1 - share) * masks + share * kept


KINDS: dict[str, Callable[[Any, Mapping[str, Any]], TextGrounded]] = {"tcl": TextGrounded, "code": CoDe}


def build_grounded(architecture: Mapping[str, Any], model: Any = None) -> TextGrounded:
    """Return the net of an architecture on `model`, a CLIP of open_clip; on one with fresh weights without it."""
    model = empty_model(architecture["clip"]) if model is None else model
    return KINDS[architecture["head"]](model, architecture)
