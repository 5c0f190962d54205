"""What the values of a user's masks mean: class ids, or names of classes by value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from stages.errors import BadData, UsageError
from stages.pseudo.masks import select_mask_type
from wsss_api.errors import suggest_similar

_BACKGROUND_NAMES = ("", "background")
_MAX_LISTED_VALUES = 8


class MaskValues:
    """Turns the values of masks into the class ids of an index."""

    def __init__(self, classes: Any, index_classes: tuple[str, ...]) -> None:
        """`classes` is None for class ids, a list of names by value, or {value: name}, with None for ignored pixels.

        Raises UsageError for names that the index does not have.
        """
        self.index_classes = index_classes
        self.dtype = select_mask_type(len(index_classes) - 1)
        self.ignore = int(np.iinfo(self.dtype).max)
        names = dict(enumerate(index_classes)) if classes is None else _read_names(classes)
        self.id_by_value = {value: self._find_class(name) for value, name in names.items()}
        self.id_by_value.setdefault(self.ignore, self.ignore)

    def _find_class(self, name: str | None) -> int:
        if name is None:
            return self.ignore
        if name in _BACKGROUND_NAMES:
            return 0
        if name not in self.index_classes:
            raise UsageError(f"the index has no class {name!r}", suggest_similar(name, self.index_classes[1:],
                                                                                 "classes"))
        return self.index_classes.index(name)

    def describe(self) -> str:
        """Return what each value means, for a message."""
        pairs = [f"{value} = {self._get_name(class_id)}" for value, class_id in self.id_by_value.items()]
        if len(pairs) > _MAX_LISTED_VALUES:
            pairs = [*pairs[:_MAX_LISTED_VALUES - 1], "...", pairs[-1]]
        return ", ".join(pairs)

    def to_json(self) -> dict[str, int]:
        """Return the class id of each value, as the provenance records it."""
        return {str(value): class_id for value, class_id in self.id_by_value.items()}

    def _get_name(self, class_id: int) -> str:
        if class_id == self.ignore:
            return "ignored"
        return self.index_classes[class_id] or "no class"

    def convert(self, mask: Any, where: str) -> np.ndarray:
        """Return a mask (H, W) of class ids. Raises BadData for another shape or type, and for an unknown value."""
        array = mask.detach().cpu().numpy() if hasattr(mask, "detach") else np.asarray(mask)
        if array.ndim != 2 or array.dtype.kind not in "iub" or 0 in array.shape:
            raise BadData(f"the mask has the shape {array.shape} and the type {array.dtype}",
                          "Pass an array of whole numbers of shape (height, width)", where=where)
        values, positions = np.unique(array, return_inverse=True)
        unknown = [value for value in values.tolist() if int(value) not in self.id_by_value]
        if unknown:
            raise BadData(f"the mask has the value {unknown[0]}, which is not one of {self.describe()}",
                          "Say what the values mean with classes={value: name}", where=where)
        ids: np.ndarray = np.array([self.id_by_value[int(value)] for value in values.tolist()], self.dtype)
        converted: np.ndarray = ids[positions.reshape(array.shape)]
        if not self.index_classes[0]:  # a data set without a background: these pixels are unknown
            converted[converted == 0] = self.ignore
        return converted


def _read_names(classes: Any) -> dict[int, str | None]:
    """Return the names by value. Raises UsageError for a list that does not start with the background."""
    if isinstance(classes, Mapping):
        return {int(value): name for value, name in classes.items()}
    names = list(classes)
    if isinstance(classes, str) or not names or names[0] not in _BACKGROUND_NAMES:
        raise UsageError("`classes` does not start with the background, which has the value 0",
                         "Pass names by value, for example classes={0: 'background', 1: 'cat', 255: None}")
    return dict(enumerate(names))
