"""What a net of CoDe makes of an image and its caption: a region and a word segment for each noun (its figure 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stages.data.augment import normalise
from stages.data.draw import cam_colours, class_colours
from stages.data.marked_text import Mark, marked_text
from stages.data.views import short_side_image
from stages.kernels.windows import Windows
from stages.nets.text_grounded import CoDe
from stages.nets.text_segmenter import word_logits, word_masks

_LONGEST = 2048


class Decomposed(NamedTuple):
    """The words of a caption with their shares (J, W) in the nouns' segments, and the nouns' regions (J, H, W)."""

    words: tuple[str, ...]
    segments: np.ndarray
    regions: np.ndarray


@torch.inference_mode()
def decomposed(net: CoDe, image: np.ndarray, caption: str, nouns: Sequence[str]) -> Decomposed:
    """Return what the net makes of an image (H, W, 3) uint8 and its caption for J `nouns`; values are in [0, 1].

    The image is seen whole, with the short side of the training's squares. Raises BadData for nouns that are too long.
    """
    vectors = net.noun_vectors(nouns)
    resized = short_side_image(image, net.architecture["region_size"], _LONGEST, smooth=True)
    view = torch.from_numpy(normalise(resized, net.mean, net.std))
    size = (view.shape[1], view.shape[2])
    whole = Windows(size, max(size), max(size), net.clip.cell)
    masks = net.masks(net.maps(whole.cut(view))[0], vectors)
    words, segments = _segments(net, caption, vectors)
    return Decomposed(words, segments, whole.blend(masks, image.shape[:2]).numpy())


def _segments(net: CoDe, caption: str, vectors: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the words of a caption, and their shares (J, W): of a word in several tokens the mean of these."""
    tokenizer = net.tokenizer
    tokens = tokenizer([caption])
    features = net.text_segmenter(net.clip.text_hidden(net.clip.word_embedding(tokens)))
    shares = word_masks(word_logits(net.text_segmenter.logits(features, vectors[None])))[0]
    # Between the start and the end, of which a caption that is too long has none of its own.
    runs = words_of(tokenizer, tokens[0, 1:int(tokens[0].argmax())].tolist())
    places = np.cumsum([1, *(len(run) for run in runs)])
    each = [shares[:, start:end].mean(1) for start, end in pairwise(places)]
    return tuple(tokenizer.decode(run).strip() for run in runs), torch.stack(each, dim=1).numpy()


def words_of(tokenizer: Any, ids: Sequence[int]) -> list[list[int]]:
    """Return the runs of token ids that are a word each: the last token of a word says so."""
    runs: list[list[int]] = [[]]
    for one in ids:
        runs[-1].append(one)
        if tokenizer.decoder[one].endswith("</w>"):
            runs.append([])
    return [run for run in runs if run]


def caption_row(image: np.ndarray, found: Decomposed, nouns: Sequence[str], names: Sequence[set[int]],
                cell: int) -> list[np.ndarray]:
    """Return pictures (H, W, 3) uint8: the image, the region of each noun, and the caption with the words' segments.

    `names` are the places of the words that each noun is: these are underlined in its colour. Regions are stretched
    from their least to their largest value, which stand behind the noun: young nets are nowhere sure. Words are as
    strong as their values.
    """
    colours = [tuple(colour) for colour in class_colours(range(1, len(nouns) + 1)).tolist()]
    regions = [cam_colours(_stretched(region)[None], [place], image=image)
               for place, region in enumerate(found.regions, 1)]
    underlined = [next((colours[noun] for noun, own in enumerate(names) if place in own), None)
                  for place in range(len(found.words))]
    lines = [[Mark(word, line=colour) for word, colour in zip(found.words, underlined, strict=True)]]
    for noun, region, shares, colour in zip(nouns, found.regions, found.segments, colours, strict=True):
        lines.append([Mark(noun, line=colour), Mark(f"(region {region.min():.3f} to {region.max():.3f}):"),
                      *(Mark(word, fill=colour, share=float(share))
                        for word, share in zip(found.words, shares, strict=True))])
    return [image, *regions, marked_text(lines, (cell, cell))]


def _stretched(region: np.ndarray) -> np.ndarray:
    """Return values from 0 to 1; all 0 where they are all alike."""
    least, most = float(region.min()), float(region.max())
    return (region - least) / (most - least) if most > least else np.zeros_like(region)


def places_of(tokenizer: Any, words: Sequence[str], noun: str) -> set[int]:
    """Return the places among a caption's words where a noun stands, as the tokenizer splits it."""
    wanted = [tokenizer.decode(run).strip() for run in words_of(tokenizer, tokenizer.encode(noun))]
    starts = [start for start in range(len(words) - len(wanted) + 1)
              if list(words[start:start + len(wanted)]) == wanted]
    return {start + offset for start in starts for offset in range(len(wanted))}
