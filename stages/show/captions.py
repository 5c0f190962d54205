"""Draw how a CoDe network decomposes an image and its caption: a region and a word segment per noun (figure 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stages.data.augment import normalise
from stages.data.class_colours import class_colours
from stages.data.draw import colour_cams
from stages.data.highlighted_text import HighlightedWord, render_highlighted_text
from stages.data.inference_views import resize_short_side
from stages.kernels.sliding_windows import SlidingWindows
from stages.nets.text_grounded import CoDe
from stages.nets.text_segmenter import compute_word_masks, prepend_no_noun_logits

_MAX_SIDE = 2048


class CaptionDecomposition(NamedTuple):
    """The W words of a caption, their weights (J, W) in the segments of J nouns, and the nouns' regions (J, H, W)."""

    words: tuple[str, ...]
    segments: np.ndarray
    regions: np.ndarray


@torch.inference_mode()
def decompose_caption(net: CoDe, image: np.ndarray, caption: str, nouns: Sequence[str]) -> CaptionDecomposition:
    """Decompose an image (H, W, 3) uint8 and its caption into regions and word segments of J `nouns`, all in [0, 1].

    The network sees the whole image, resized so that its short side is that of the training crops. Raises BadData for
    nouns that are too long.
    """
    vectors = net.encode_nouns(nouns)
    resized = resize_short_side(image, net.architecture["region_size"], _MAX_SIDE, smooth=True)
    view = torch.from_numpy(normalise(resized, net.mean, net.std))
    size = (view.shape[1], view.shape[2])
    window = SlidingWindows(size, max(size), max(size), net.clip.cell)
    masks = net.masks(net.maps(window.crop(view))[0], vectors)
    words, segments = _segment_words(net, caption, vectors)
    return CaptionDecomposition(words, segments, window.blend(masks, image.shape[:2]).numpy())


def _segment_words(net: CoDe, caption: str, vectors: Tensor) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the words of a caption and their weights (J, W); a word of several tokens has the mean over them."""
    tokenizer = net.tokenizer
    tokens = tokenizer([caption])
    features = net.text_segmenter(net.clip.run_text_blocks(net.clip.embed_tokens(tokens)))
    token_weights = compute_word_masks(prepend_no_noun_logits(net.text_segmenter.logits(features, vectors[None])))[0]
    # Only the tokens between start and end; in a caption that is too long the end token replaces the last one.
    word_tokens = group_tokens_by_word(tokenizer, tokens[0, 1:int(tokens[0].argmax())].tolist())
    bounds = np.cumsum([1, *(len(ids) for ids in word_tokens)])
    word_weights = [token_weights[:, start:end].mean(1) for start, end in pairwise(bounds)]
    return tuple(tokenizer.decode(ids).strip() for ids in word_tokens), torch.stack(word_weights, dim=1).numpy()


def group_tokens_by_word(tokenizer: Any, ids: Sequence[int]) -> list[list[int]]:
    """Group token ids by word; the last token of each word ends with the marker `</w>`."""
    words: list[list[int]] = [[]]
    for token in ids:
        words[-1].append(token)
        if tokenizer.decoder[token].endswith("</w>"):
            words.append([])
    return [word for word in words if word]


def draw_caption_row(image: np.ndarray, decomposition: CaptionDecomposition, nouns: Sequence[str],
                     noun_positions: Sequence[set[int]], cell_size: int) -> list[np.ndarray]:
    """Draw the images (H, W, 3) uint8 of a row: the image, each noun's region, and the caption with word segments.

    `noun_positions` are the positions of each noun's words in the caption: these are underlined in its colour. Regions
    are stretched from their smallest to their largest value, which are printed after the noun, because networks early
    in training are nowhere confident. Words are coloured as strongly as their weights.
    """
    colours = [tuple(colour) for colour in class_colours(range(1, len(nouns) + 1)).tolist()]
    regions = [colour_cams(_stretch_to_unit_range(region)[None], [class_id], image=image)
               for class_id, region in enumerate(decomposition.regions, 1)]
    words = decomposition.words
    underlines = [next((colours[noun] for noun, positions in enumerate(noun_positions) if index in positions), None)
                  for index in range(len(words))]
    lines = [[HighlightedWord(word, line=colour) for word, colour in zip(words, underlines, strict=True)]]
    for noun, region, weights, colour in zip(nouns, decomposition.regions, decomposition.segments, colours,
                                             strict=True):
        lines.append([HighlightedWord(noun, line=colour),
                      HighlightedWord(f"(region {region.min():.3f} to {region.max():.3f}):"),
                      *(HighlightedWord(word, fill=colour, share=float(weight))
                        for word, weight in zip(words, weights, strict=True))])
    return [image, *regions, render_highlighted_text(lines, (cell_size, cell_size))]


def _stretch_to_unit_range(region: np.ndarray) -> np.ndarray:
    """Stretch values to [0, 1]; they are all 0 if the region is constant."""
    low, high = float(region.min()), float(region.max())
    return (region - low) / (high - low) if high > low else np.zeros_like(region)


def find_noun_positions(tokenizer: Any, words: Sequence[str], noun: str) -> set[int]:
    """Return the positions of a noun among a caption's words, both as the tokenizer splits them."""
    noun_words = [tokenizer.decode(ids).strip() for ids in group_tokens_by_word(tokenizer, tokenizer.encode(noun))]
    starts = [start for start in range(len(words) - len(noun_words) + 1)
              if list(words[start:start + len(noun_words)]) == noun_words]
    return {start + offset for start in starts for offset in range(len(noun_words))}
