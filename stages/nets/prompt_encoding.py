"""Encode class words as the text embeddings that a CLIP compares images with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.errors import BadData, MissingInput
from stages.nets.clip_text import TextTower

SYNONYM_FUSIONS = ("sentence", "feature", "cam")
# The seven templates that OpenAI's notebook found best on ImageNet, and two by TCL for several objects.
_TCL_TEMPLATES = ("itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
        "a {} in a video game.", "art of the {}.", "a photo of the small {}.", "a photo of many {}.",
        "a photo of {}s.")


def load_templates(spec: str) -> tuple[str, ...]:
    """Return the templates that `spec` names: itself if it has a {}, `imagenet` (OpenAI's 80), `tcl` (9), or a file.

    Raises MissingInput if `spec` is none of these, BadData for a file that is not UTF-8 or holds no template.
    """
    if "{}" in spec:
        return (spec,)
    if spec == "tcl":
        return _TCL_TEMPLATES
    if spec == "imagenet":
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    try:
        lines = [line.strip() for line in Path(spec).read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise BadData("the file of templates is not UTF-8", "Save it as UTF-8 text", where=spec) from None
    except OSError:
        raise MissingInput("this is neither a template with {} nor a file of templates",
                           "Give for example 'a photo of a {}.'", where=spec) from None
    templates = tuple(line for line in lines if line and not line.startswith("#"))
    invalid = next((line for line in templates if "{}" not in line), None)
    if invalid is not None or not templates:
        raise BadData(f"the template {invalid!r} has no {{}}" if invalid else "the file holds no templates",
                      "Write one template per line, with {} in place of the class name", where=spec)
    return templates


def encode_words(tower: TextTower, words: Sequence[str], templates: Sequence[str], *,
                 unit_length: bool = True) -> Tensor:
    """Encode each word in all templates and return the means over the templates as unit vectors (W, E).

    The mean is over unit vectors; with `unit_length` False over the tower's unnormalised vectors, as in TCL's released
    code.
    """
    if not words:
        return torch.zeros(0, 0)
    prompts = [template.replace("{}", word) for word in words for template in templates]
    encoded = tower.encode(prompts) if unit_length else tower.encode_unnormalised(prompts)
    return F.normalize(encoded.unflatten(0, (len(words), len(templates))).mean(1), dim=-1)


def encode_classes(tower: TextTower, synonyms: Sequence[Sequence[str]], templates: Sequence[str],
                   fusion: str) -> Tensor:
    """Encode the classes as unit vectors (V, C, E), in V variants (CLIP-ES, appendix B).

    `sentence` puts all synonyms in one prompt, `feature` averages their vectors; V = 1 in both. With `cam`, variant v
    has synonym v of each class (modulo their number); average the variants' maps with `compute_variant_weights`.
    """
    if fusion == "cam":
        num_variants = max(map(len, synonyms))
        return torch.stack([encode_words(tower, [words[variant % len(words)] for words in synonyms], templates)
                            for variant in range(num_variants)])
    if fusion == "sentence":
        return encode_words(tower, [",".join(words) for words in synonyms], templates)[None]
    class_means = [encode_words(tower, words, templates).mean(0) for words in synonyms]
    return F.normalize(torch.stack(class_means), dim=-1)[None]


def compute_variant_weights(synonyms: Sequence[Sequence[str]], fusion: str) -> Tensor:
    """Return the weights (V, C) of the variants of `encode_classes` for each class; they sum to 1 over the variants.

    A class with fewer synonyms than another has weight 0 in the last variants of `cam`: there it only competes in the
    softmax.
    """
    num_synonyms = torch.tensor([len(words) if fusion == "cam" else 1 for words in synonyms])
    return (torch.arange(int(num_synonyms.max()))[:, None] < num_synonyms) / num_synonyms
