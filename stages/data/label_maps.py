"""Map the values in the masks of benchmarks to class ids; an index records the map by its name."""

from __future__ import annotations

import numpy as np

from stages.errors import BadData

IGNORE_VALUE, NO_CLASS = 255, 254
# Category ids of COCO, minus one, that are not used.
_GAPS_OF_COCO = frozenset((11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90))
_FIRST_STUFF, _LAST_STUFF = 91, 181
_THINGS = [value for value in range(_FIRST_STUFF) if value not in _GAPS_OF_COCO]
_CITYSCAPES = (7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33)


def _build_table(class_id_by_value: dict[int, int]) -> np.ndarray:
    table = np.full(256, NO_CLASS, dtype=np.uint8)
    table[IGNORE_VALUE] = IGNORE_VALUE
    table[list(class_id_by_value)] = list(class_id_by_value.values())
    return table


# Each table maps a value 0..255 to a class id, IGNORE_VALUE or NO_CLASS.
LABEL_MAPS = {
    # Training ids starting at 0, as written by the converters of MMSegmentation and Cityscapes.
    "from-zero": _build_table({value: value + 1 for value in range(NO_CLASS - 1)}),
    "cityscapes": _build_table({**dict.fromkeys(range(34), IGNORE_VALUE),
                                **{value: class_id for class_id, value in enumerate(_CITYSCAPES, 1)}}),
    "coco-stuff": _build_table({value: class_id for class_id, value in
                                enumerate([*_THINGS, *range(_FIRST_STUFF, _LAST_STUFF + 1)], 1)}),
    # As in GroupViT's converter, which the evaluations share: stuff and unlabelled pixels are background.
    "coco-object": _build_table({**dict.fromkeys((*range(_FIRST_STUFF, _LAST_STUFF + 1), IGNORE_VALUE), 0),
                                 **{value: class_id for class_id, value in enumerate(_THINGS, 1)}}),
}


def apply_label_map(values: np.ndarray, name: str, where: str) -> np.ndarray:
    """Return the class ids (H, W) uint8 of a mask's values. Raises BadData for a value that is not in the map."""
    if values.max(initial=0) > IGNORE_VALUE:
        raise BadData(f"the mask has the value {int(values.max())}, but masks of {name} have 8 bits",
                      "Pass the masks of this benchmark, as it publishes them", where=where)
    class_ids = LABEL_MAPS[name][values]
    is_unknown = class_ids == NO_CLASS
    if is_unknown.any():
        raise BadData(f"the mask has the value {int(values[is_unknown][0])}, which does not exist in {name}",
                      "Pass the masks of this benchmark, as it publishes them", where=where)
    return class_ids
