"""Sentences about an index, a training and masks, from numbers alone.

Thresholds are rules of thumb with a reason next to them; no ground truth is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# With 11 to 16 photographs of a class, maps found its parts rather than its objects (docs/own-photographs.md).
_FEW_IMAGES = 20
# Of two classes that nearly always come together a classifier need not tell which is which.
_ALWAYS_TOGETHER = 0.9
# A mAP within three standard deviations of guessing has learnt nothing.
_DEVIATIONS_OF_CHANCE = 3
_LOW_MAP = 0.8
# True masks are background to 79 % in VOC and to 73 % in 40 photographs of MSRC. Masks of the latter with 33 %
# of background scored 38 mIoU, with 46 to 52 % 47 to 50, with 58 to 65 % 49 to 58.
_MUCH_BACKGROUND, _LITTLE_BACKGROUND = 0.93, 0.45
_MANY_MISSED = 0.1
_MAX_NAMED = 5


def explain_index(labels: Sequence[Sequence[int] | None], classes: Sequence[str]) -> list[str]:
    """Explain the photographs per class; `labels` are the class ids 1..C of each image, None if they are unknown."""
    known = [ids for ids in labels if ids is not None]
    tags = np.zeros((len(known), len(classes)), dtype=bool)
    for position, ids in enumerate(known):
        tags[position, list(ids)] = True
    counts = tags.sum(axis=0)
    numbers = range(1, len(classes))
    lines = [f"{len(labels)} photographs: {_join([f'{classes[number]} {counts[number]}' for number in numbers], 12)}."]
    if len(known) < len(labels):
        lines.append(f"{len(labels) - len(known)} have unknown tags; classifiers don't learn from them.")
    few = [f"{classes[number]} ({counts[number]})" for number in numbers if 0 < counts[number] < _FEW_IMAGES]
    if few:
        lines.append(f"Fewer than {_FEW_IMAGES} photographs of {_join(few)}: expect poor masks of them. More "
                     "photographs help more than any setting.")
    everywhere = [classes[number] for number in numbers if known and counts[number] == len(known)]
    if everywhere:
        lines.append(f"Every photograph shows {_join(everywhere)}: a classifier can't learn what it looks like. Add "
                     "photographs without it, with an empty cell in the table.")
    return lines + _explain_pairs(tags, counts, classes)


def _explain_pairs(tags: np.ndarray, counts: np.ndarray, classes: Sequence[str]) -> list[str]:
    together = tags.T.astype(np.int64) @ tags
    pairs = [f"{classes[first]} with {classes[second]}" for first in range(1, len(classes))
             for second in range(1, len(classes))
             if first != second and counts[first] and together[first, second] > _ALWAYS_TOGETHER * counts[first]
             and counts[second] < len(tags)]
    if not pairs:
        return []
    return [f"Almost always together: {_join(pairs)}. Tags alone can't tell which pixels are which; add photographs of "
            "one without the other."]


def explain_training(name: str, lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Explain the log of a training, whose `lines` have epoch, loss, and of a classifier map and map_of_chance."""
    last = lines[-1]
    texts = [f"{name}: {last.get('epoch', len(lines))} passes, loss {last['loss']:.3g}."]
    if "map" not in last:
        return texts
    chance, deviation = last.get("map_of_chance", 0.0), last.get("map_of_chance_sd", 0.0)
    texts.append(f"Its mean average precision on the training photographs is {last['map']:.2f}; guessing gives "
                 f"{chance:.2f}. (On new photographs it is lower.)")
    if last["map"] < chance + _DEVIATIONS_OF_CHANCE * deviation:
        texts.append("It has learnt nothing: train again with a third of the learning rate (--lr), from weights of "
                     "ImageNet.")
    elif last["map"] < _LOW_MAP:
        texts.append(f"Below {_LOW_MAP} it doesn't recognise all classes: train longer (--epochs), and check the tags "
                     "of the classes that look alike.")
    return texts


def explain_masks(name: str, counts: np.ndarray, labels: Sequence[Sequence[int] | None], classes: Sequence[str],
                  num_ignored: int) -> list[str]:
    """Explain masks by the pixels of each class in each image, `counts` (N, C+1), and the images' tags."""
    total = int(counts.sum())
    if not total:
        return [f"{name}: no mask has a pixel with a class."]
    background = counts[:, 0].sum() / total
    lines = [f"{name}: {len(counts)} masks; background covers {background:.0%} of the pixels"
             + (f", and {num_ignored / (total + num_ignored):.0%} are ignored." if num_ignored else ".")]
    if background > _MUCH_BACKGROUND:
        lines.append("That is much: objects are probably cut off. Lower the background score by 0.1 (--background of "
                     "refine crf or pseudo).")
    elif background < _LITTLE_BACKGROUND:
        lines.append("That is little: masks probably spill over. Raise the background score by 0.1 (--background of "
                     "refine crf or pseudo).")
    return lines + _compare_with_tags(counts, labels, classes)


def _compare_with_tags(counts: np.ndarray, labels: Sequence[Sequence[int] | None], classes: Sequence[str]) -> list[str]:
    known = [position for position, ids in enumerate(labels) if ids is not None]
    tags = np.zeros((len(known), counts.shape[1]), dtype=bool)
    for row, position in enumerate(known):
        tags[row, list(labels[position] or ())] = True
    found = counts[known] > 0
    tags[:, 0] = found[:, 0] = False
    if not tags.any():
        return []
    missed, unexpected = tags & ~found, found & ~tags
    lines = [f"Of {int(tags.sum())} tagged classes {int((tags & found).sum())} have pixels in their image's mask"
             + (f"; {int(unexpected.sum())} classes were found that are not tagged." if unexpected.any() else ".")]
    if missed.sum() > _MANY_MISSED * tags.sum():
        worst = _rank(missed.sum(axis=0), tags.sum(axis=0), classes)
        lines.append(f"Missing most often: {_join(worst)}. Look at these photographs in the report; small objects need "
                     "larger images or a lower background score.")
    if unexpected.sum() > _MANY_MISSED * tags.sum():
        worst = _rank(unexpected.sum(axis=0), found.sum(axis=0), classes)
        lines.append(f"Found without a tag most often: {_join(worst)}. Either tags are missing there, or the network "
                     "confuses the class with another.")
    return lines


def _rank(cases: np.ndarray, totals: np.ndarray, classes: Sequence[str]) -> list[str]:
    order = [int(number) for number in np.argsort(-cases, kind="stable") if cases[number]]
    return [f"{classes[number]} ({cases[number]} of {totals[number]})" for number in order]


def _join(texts: Sequence[str], limit: int = _MAX_NAMED) -> str:
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
