"""Class words to the text vectors that a CLIP compares images with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from stages.errors import BadData, MissingInput
from stages.nets.clip_text import TextTower

FUSIONS = ("sentence", "feature", "cam")
# The seven templates that OpenAI's notebook finds best on ImageNet, and two of TCL's for many of a thing.
_TCL = ("itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
        "a {} in a video game.", "art of the {}.", "a photo of the small {}.", "a photo of many {}.",
        "a photo of {}s.")


def templates_of(told: str) -> tuple[str, ...]:
    """Return the templates: `told` itself where it has a {}, `imagenet` (OpenAI's 80), `tcl` (9), or a file's."""
    if "{}" in told:
        return (told,)
    if told == "tcl":
        return _TCL
    if told == "imagenet":
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    try:
        lines = [line.strip() for line in Path(told).read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise BadData("is not UTF-8", "save the templates as UTF-8 text", where=told) from None
    except OSError:
        raise MissingInput("is no template with a {}, and no file of them", "give for example 'a photo of a {}.'",
                           where=told) from None
    templates = tuple(line for line in lines if line and not line.startswith("#"))
    wrong = next((line for line in templates if "{}" not in line), None)
    if wrong is not None or not templates:
        raise BadData(f"the template {wrong!r} has no {{}}" if wrong else "holds no template", "write one a line, "
                      "with {} where the name goes", where=told)
    return templates


def word_features(tower: TextTower, words: Sequence[str], templates: Sequence[str], *, unit: bool = True) -> Tensor:
    """Return unit vectors (W, E): of each word the mean over the templates.

    The mean is of unit vectors; without `unit` of vectors as long as the tower gives them, as in TCL's released code.
    """
    if not words:
        return torch.zeros(0, 0)
    prompts = [template.replace("{}", word) for word in words for template in templates]
    encoded = tower.encode(prompts) if unit else tower.features(prompts)
    return F.normalize(encoded.unflatten(0, (len(words), len(templates))).mean(1), dim=-1)


def class_features(tower: TextTower, synonyms: Sequence[Sequence[str]], templates: Sequence[str],
                   fusion: str) -> Tensor:
    """Return unit vectors (V, C, E) of the classes, in V variants (CLIP-ES, appendix B).

    `sentence`: the synonyms in one prompt; `feature`: the mean of their vectors; V = 1 both times. `cam`: variant v
    has each class's synonym v (modulo their number), whose maps are to be averaged by `variant_shares`.
    """
    if fusion == "cam":
        variants = max(map(len, synonyms))
        return torch.stack([word_features(tower, [words[place % len(words)] for words in synonyms], templates)
                            for place in range(variants)])
    if fusion == "sentence":
        return word_features(tower, [",".join(words) for words in synonyms], templates)[None]
    each = [word_features(tower, words, templates).mean(0) for words in synonyms]
    return F.normalize(torch.stack(each), dim=-1)[None]


def variant_shares(synonyms: Sequence[Sequence[str]], fusion: str) -> Tensor:
    """Return what each of the variants of `class_features` counts for each class, (V, C), 1 in all for each.

    A class with fewer synonyms than another has none in the last variants of `cam`, where it only competes.
    """
    counts = torch.tensor([len(words) if fusion == "cam" else 1 for words in synonyms])
    return (torch.arange(int(counts.max()))[:, None] < counts) / counts
