"""What the values of a benchmark's masks mean: tables from them to class ids, by the name that an index records."""

from __future__ import annotations

import numpy as np

from stages.errors import BadData

IGNORE, NO_CLASS = 255, 254
# Ids of COCO's categories, less one, that no image has.
_GAPS_OF_COCO = frozenset((11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90))
_FIRST_STUFF, _LAST_STUFF = 91, 181
_THINGS = [value for value in range(_FIRST_STUFF) if value not in _GAPS_OF_COCO]
_CITYSCAPES = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)


def _table(known: dict[int, int]) -> np.ndarray:
    table = np.full(256, NO_CLASS, dtype=np.uint8)
    table[IGNORE] = IGNORE
    table[list(known)] = list(known.values())
    return table


# Each takes a value 0..255 to a class id, IGNORE or NO_CLASS.
LABEL_MAPS = {
    # Training ids from 0 on, as MMSegmentation's and Cityscapes' converters write them.
    "from-zero": _table({value: value + 1 for value in range(NO_CLASS - 1)}),
    "cityscapes": _table({**dict.fromkeys(range(34), IGNORE),
                          **{value: place for place, value in enumerate(_CITYSCAPES, 1)}}),
    "coco-stuff": _table({value: place for place, value in
                          enumerate([*_THINGS, *range(_FIRST_STUFF, _LAST_STUFF + 1)], 1)}),
    # As GroupViT's converter has it, which the evaluations share: stuff and what bears no label are background.
    "coco-object": _table({**dict.fromkeys((*range(_FIRST_STUFF, _LAST_STUFF + 1), IGNORE), 0),
                           **{value: place for place, value in enumerate(_THINGS, 1)}}),
}


def mapped(ids: np.ndarray, name: str, where: str) -> np.ndarray:
    """Return the class ids (H, W) uint8 of a mask's values. Raises BadData for a value that the map does not have."""
    if ids.max(initial=0) > IGNORE:
        raise BadData(f"mask with the value {int(ids.max())}", f"the masks of {name} are of 8 bits", where=where)
    found = LABEL_MAPS[name][ids]
    if (found == NO_CLASS).any():
        raise BadData(f"mask with the value {int(ids[found == NO_CLASS][0])}, which {name} does not have",
                      "give the masks of this benchmark", where=where)
    return found
