"""Networks that segment the image regions a text names: TCL, and CoDe with its text segmenter and prompts.

A net file includes the frozen CLIP, so that `segment` needs no other weights. For the papers see `image_segmenter`,
`text_segmenter` and `noun_prompt`.
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
from stages.nets.clip import build_random_clip, build_text_tokenizer
from stages.nets.clip_text import TextTower
from stages.nets.frozen_clip import FrozenClip
from stages.nets.image_segmenter import UPSAMPLING_FACTOR, ImageSegmenter, compute_cosine_similarity
from stages.nets.noun_prompt import NounPrompt
from stages.nets.prompt_encoding import encode_words
from stages.nets.text_segmenter import TextSegmenter

TEXT_SEGMENTATION_TASK = "text-segmentation"
INITIAL_TEMPERATURE = 0.07
_CLIP_MASK_SCALE, _CLIP_MASK_SHIFT = 10.0, 0.25
_INITIAL_CONTEXT = ("A", "photo", "of")
_BATCH_SIZE = 256


class TextGroundedNet(nn.Module):
    """TCL: a frozen CLIP and the image segmenter trained on it, with the logit scales of its two contrastive losses.

    `architecture` has all that is needed to rebuild it: `clip` (a model config of open_clip), `head` (tcl or code),
    `convolutions` (per upsampling). `mean` and `std` are those of its input images.
    """

    task = TEXT_SEGMENTATION_TASK
    contrasts: tuple[str, ...] = ("image", "map")

    def __init__(self, model: Any, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        self.architecture = dict(architecture)
        self.clip = FrozenClip(model)
        self.segmenter = ImageSegmenter(self.clip, architecture["convolutions"])
        start = math.log(1 / INITIAL_TEMPERATURE)
        self.log_scales = nn.ParameterDict({name: nn.Parameter(torch.tensor(start)) for name in self.contrasts})
        self.stride = self.clip.cell // UPSAMPLING_FACTOR
        self.mean: tuple[float, ...] = ()
        self.std: tuple[float, ...] = ()

    @torch.inference_mode()
    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the trained dense embedding (B, E, 4h, 4w) of normalised `images`, and CLIP's own (B, E, h, w).

        The trunk runs once for both.
        """
        tokens, grid = self.clip.forward_trunk(images)
        return self.segmenter(tokens, grid), self.clip.encode_patches(tokens, grid)

    @torch.inference_mode()
    def masks(self, dense: Tensor, texts: Tensor) -> Tensor:
        """Return the soft masks (B, N, 4h, 4w) of a trained embedding (B, E, 4h, 4w) for texts (N, E)."""
        return self.segmenter.logits(dense, texts).sigmoid()

    def encode_class_words(self, words: Sequence[str], templates: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode words as unit vectors (N, E) for the trained map, and for CLIP's own map.

        Both are means over `templates` of vectors that are not normalised (TCL's released code). Raises BadData for
        words that are too long.
        """
        vectors = encode_words(self._text_tower, words, templates, unit_length=False)
        return vectors, vectors

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer of the text tower, from texts to ids; cached, because building its tables takes 0.1 s."""
        return build_text_tokenizer(self.architecture["clip"])

    @property
    def _text_tower(self) -> TextTower:
        return TextTower(self.clip.model, self.tokenizer)


class CoDe(TextGroundedNet):
    """CoDe: TCL with nouns in a learnt context, the text segmenter, and prompts that fill what the masks exclude.

    `architecture` adds `n_context` and `noun_place` of the context, `text_layer` of the text segmenter and
    `region_size`, the side of the region prompt in pixels. Prompts are initialised with 0.
    """

    contrasts = ("image", "map", "highlighted")

    def __init__(self, model: Any, architecture: Mapping[str, Any]) -> None:
        super().__init__(model, architecture)
        if self.clip.text_width != self.clip.embed_dim:
            raise UsageError(f"--clip: the text tower is {self.clip.text_width} wide and the embedding "
                             f"{self.clip.embed_dim}, but CoDe compares words with nouns and needs equal widths",
                             "Give --clip a ViT of OpenAI")
        num_context, size = architecture["n_context"], architecture["region_size"]
        self.noun_prompt = NounPrompt(self.clip, self._encode_initial_context(num_context), architecture["noun_place"])
        self.text_segmenter = TextSegmenter(self.clip.text_width, architecture["text_layer"])
        self.region_prompt = nn.Parameter(torch.zeros(1, 3, size, size))
        self.word_prompt = nn.Parameter(torch.zeros(self.clip.context_length, self.clip.text_width))

    def encode_class_words(self, words: Sequence[str], templates: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Encode words as unit vectors (N, E) in the learnt context for the trained map, and as means over `templates`.

        The means are over unit vectors (CoDe's released code). Raises BadData for words that are too long.
        """
        return self.encode_nouns(words), encode_words(self._text_tower, words, templates)

    @torch.inference_mode()
    def encode_nouns(self, words: Sequence[str]) -> Tensor:
        """Encode words as unit vectors (N, E) in the learnt context. Raises BadData for words that are too long."""
        tokenizer, length = self.tokenizer, self.clip.context_length - self.architecture["n_context"]
        for word in words:
            if (num_tokens := len(tokenizer.encode(word)) + 2) > length:
                raise BadData(f"the words {word[:60]!r}... have {num_tokens} tokens, but the network reads at most "
                              f"{length} in its context",
                              "Shorten the class name or its words (--words, --names FILE.toml)")
        tokens = tokenizer(list(words), context_length=length).to(self.segmenter.projection.device)
        return torch.cat([self.noun_prompt(self.clip, batch) for batch in tokens.split(_BATCH_SIZE)])

    def set_trainable(self, *, word_prompt: bool, region_prompt: bool, text: bool) -> None:
        """Choose which of CoDe's parts are trained: the prompts, and the decomposition of the text."""
        self.word_prompt.requires_grad_(word_prompt)
        self.region_prompt.requires_grad_(region_prompt)
        self.text_segmenter.requires_grad_(text)
        self.log_scales["highlighted"].requires_grad_(text)

    def _encode_initial_context(self, num_words: int) -> Tensor:
        """Return the ids (M,) of "A photo of" followed by letters x: the initial context (CoDe, released code)."""
        words = [*_INITIAL_CONTEXT, *["x"] * max(0, num_words - len(_INITIAL_CONTEXT))][:num_words]
        return torch.tensor([token for word in words for token in self.tokenizer.encode(word)], dtype=torch.long)


def mix_clip_masks(masks: Tensor, clip_map: Tensor, texts: Tensor, weight: float) -> Tensor:
    """Mix the masks (B, N, H, W) with those of CLIP's own map (B, E, h, w) and texts (N, E), which get `weight`.

    CLIP's masks are sigmoid(10 (cosine - 0.25)), resized bilinearly. TCL and CoDe do this in evaluation, with weight
    0.3 (released code).
    """
    clip_masks = (_CLIP_MASK_SCALE * (compute_cosine_similarity(clip_map, texts) - _CLIP_MASK_SHIFT)).sigmoid()
    clip_masks = F.interpolate(clip_masks, masks.shape[-2:], mode="bilinear", align_corners=False)
    return (1 - weight) * masks + weight * clip_masks


NET_CLASSES: dict[str, Callable[[Any, Mapping[str, Any]], TextGroundedNet]] = {"tcl": TextGroundedNet, "code": CoDe}


def build_text_grounded_net(architecture: Mapping[str, Any], model: Any = None) -> TextGroundedNet:
    """Build the network of an `architecture` on `model`, a CLIP of open_clip (None: a CLIP with fresh weights)."""
    model = build_random_clip(architecture["clip"]) if model is None else model
    return NET_CLASSES[architecture["head"]](model, architecture)
