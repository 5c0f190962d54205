"""Find out which class each value in the masks stands for, from the tags of their images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from stages.data.mask_counts import MaskCounts
from stages.data.mask_values import IGNORED
from stages.data.masks import IGNORE_8_BIT as IGNORE
from stages.data.masks import list_voc_colours

_MIN_EXPLAINED = 0.6  # share of the images that a mapping must explain before it is suggested
_MIN_OVERLAP = 0.5  # of the images with a value and those with a tag, as intersection over union
_OFFSETS = (-1, 1, -2, 2)
Value = int | str
Mapped = dict[Value, int]


class Meaning(NamedTuple):
    """The class id of each value whose meaning is another one, and the images whose tags this explains."""

    mapping: Mapped
    num_explained: int


_NONE = Meaning({}, 0)


def find_mapping(images: Sequence[MaskCounts], num_classes: int) -> Meaning:
    """Return another meaning of the values if it explains the tags of most images, else an empty one.

    A value is an id or a colour #RRGGBB. Ids that are shifted by the same number are tried first, then the one-to-one
    assignment of values to tags that fits best. Values that are mapped to themselves are left out.
    """
    tagged = _use_one_kind_of_value([image for image in images if image.labels])
    values = _list_values(tagged)
    num_tags = len({label for image in tagged for label in image.labels or ()})
    candidates = [_shift(values, offset, num_classes) if num_tags > 1 else {} for offset in _OFFSETS]
    candidates.append(_assign(tagged, values))
    explained = [count_explained(tagged, mapping) for mapping in candidates]
    best = max(range(len(candidates)), key=lambda index: (explained[index], -index))
    is_better = explained[best] > count_explained(tagged, {})
    if not (tagged and is_better and explained[best] >= _MIN_EXPLAINED * len(tagged)):
        return _NONE
    return Meaning({value: class_id for value, class_id in candidates[best].items() if value != class_id},
                   explained[best])


def count_explained(images: Sequence[MaskCounts], mapping: Mapping[Value, int]) -> int:
    """Return the number of images whose mask has classes, all of them tags, if its values are mapped."""
    return sum(_is_explained(image, mapping) for image in images)


def _is_explained(image: MaskCounts, mapping: Mapping[Value, int]) -> bool:
    values = list(image.pixels) + ([IGNORE] if image.ignored and IGNORE in mapping else [])
    # A colour that is not in the mapping is not known to be an object.
    classes = {mapping.get(value, value if isinstance(value, int) else 0) for value in values} - {0, IGNORED}
    return bool(classes) and classes <= set(image.labels or ())


def find_colour_mapping(images: Sequence[MaskCounts], num_classes: int) -> Meaning:
    """Return the meaning of the palettes' colours if colours explain the tags of most images, else an empty one."""
    with_colours = [replace(image, ignored=0, pixels=_count_palette_colours(image)) for image in images
                    if image.palette_colours]
    return find_mapping(with_colours, num_classes) if 2 * len(with_colours) > len(images) else _NONE


def _count_palette_colours(image: MaskCounts) -> dict[Value, int]:
    pixels: Counter[Value] = Counter()
    for value, count in [*image.pixels.items(), (IGNORE, image.ignored)]:
        if isinstance(value, int) and value in image.palette_colours and count:
            pixels[image.palette_colours[value]] += count
    return dict(pixels)


def _use_one_kind_of_value(images: list[MaskCounts]) -> list[MaskCounts]:
    """Return the images with colours instead of ids if one of them has colours: VOC's colours were read as ids."""
    if not any(isinstance(value, str) for image in images for value in image.pixels):
        return images
    names = list_voc_colours()
    return [replace(image, pixels={names[value] if isinstance(value, int) and value < len(names) else value: count
                                   for value, count in image.pixels.items()}) for image in images]


def _list_values(images: Sequence[MaskCounts]) -> list[Value]:
    values = {value for image in images for value in image.pixels}
    return sorted(values, key=lambda value: (isinstance(value, str), value))


def _shift(values: Sequence[Value], offset: int, num_classes: int) -> Mapped:
    """Map each id to the id plus `offset`, at least 0; downwards, 0 stays the background. {} for colours."""
    ids = [value for value in values if isinstance(value, int)]
    if len(ids) < max(2, len(values)):
        return {}
    # All classes, for those that do not occur in these masks may occur in others; 0 only if it is in use.
    values_of_classes = {class_id - offset for class_id in range(1, num_classes + 1) if class_id > offset}
    return {value: max(0, value + offset) for value in sorted({*ids, *values_of_classes})
            if value + offset <= num_classes and not (value == 0 and offset < 0)}


def _assign(images: Sequence[MaskCounts], values: Sequence[Value]) -> Mapped:
    """Return the one-to-one assignment of values to tags whose images overlap most; colours get a background too."""
    images_by_value: dict[Value, set[int]] = defaultdict(set)
    images_by_tag: dict[int, set[int]] = defaultdict(set)
    for position, image in enumerate(images):
        for value in image.classes:
            images_by_value[value].add(position)
        if image.ignored:
            images_by_value[IGNORE].add(position)
        for tag in image.labels or ():
            images_by_tag[tag].add(position)
    from scipy.optimize import linear_sum_assignment  # imported only here: it takes longer than indexing some images

    background = {**_find_background_colour(images, values), **_find_void_colour(values)}
    keys = [key for key in images_by_value if key not in background]
    tags = sorted(images_by_tag)
    if not (keys and tags):
        return {}
    overlap = np.array([[_compute_overlap(images_by_value[key], images_by_tag[tag]) for tag in tags] for key in keys])
    # If two values fit equally well, ignored pixels are more often a border, and rare colours a smooth edge.
    pixels = Counter[Value]()
    for image in images:
        pixels.update(image.pixels)
    rank = {key: position for position, key in enumerate(sorted(keys, key=lambda key: (key == IGNORE, -pixels[key])))}
    rows, columns = linear_sum_assignment(overlap - 1e-6 * np.array([[rank[key]] for key in keys]), maximize=True)
    pairs = {keys[row]: tags[column] for row, column in zip(rows, columns, strict=True)
             if overlap[row, column] >= _MIN_OVERLAP}
    return dict(sorted({**background, **pairs}.items(), key=lambda pair: (pair[1], str(pair[0]))))


def _compute_overlap(first: set[int], second: set[int]) -> float:
    return len(first & second) / len(first | second)


def _find_background_colour(images: Sequence[MaskCounts], values: Sequence[Value]) -> Mapped:
    """Return the colour of the background, if masks have colours: black, else the most frequent one in all images."""
    colours = [value for value in values if isinstance(value, str)]
    if not colours or "#000000" in colours:
        return {"#000000": 0} if colours else {}
    pixels = {colour: sum(image.pixels.get(colour, 0) for image in images) for colour in colours}
    most_frequent = max(colours, key=lambda colour: pixels[colour])
    is_everywhere = sum(most_frequent in image.pixels for image in images) >= 0.9 * len(images)
    return {most_frequent: 0} if is_everywhere else {}


def _find_void_colour(values: Sequence[Value]) -> Mapped:
    """Return VOC's colour of ignored pixels if it occurs."""
    void = list_voc_colours()[IGNORE]
    return {void: IGNORED} if void in values else {}
