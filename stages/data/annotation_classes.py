"""The classes of annotation files: labels by name become class ids 1..C, background or ignored pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.data.class_names import read_class_names
from stages.data.name_forms import fold_name
from stages.data.shapes import IGNORED_ID
from stages.data.tables import check_text
from stages.data.tag_parsing import BACKGROUND_NAMES, IGNORED_NAMES
from stages.errors import BadData


@dataclass
class LabelNames:
    """Class ids by label name, in the order in which names are added; names are compared without case.

    The background in any spelling is 0; `void` and `__ignore__` are IGNORED_ID, whose pixels are ignored.
    """

    names: list[str] = field(default_factory=lambda: ["background"])
    special_names: list[str] = field(default_factory=list)
    _ids: dict[str, int] = field(default_factory=dict)

    def add(self, name: Any, entry: str, where: str) -> int:
        """Return the class id of a label, new if needed. Raises BadData for a blank name and for two spellings."""
        if not isinstance(name, str) or not name.strip():
            raise BadData(f"{entry} has the name {name!r}, which is not the name of a class",
                          "Give every class a name", where=where)
        name = check_text(" ".join(name.split()), f"{entry}.name", where)
        key = fold_name(name)
        if key in BACKGROUND_NAMES or key in IGNORED_NAMES:
            if name not in self.special_names:
                self.special_names.append(name)
            return 0 if key in BACKGROUND_NAMES else IGNORED_ID
        class_id = self._ids.setdefault(key, len(self.names))
        if class_id == len(self.names):
            self.names.append(name)
        elif self.names[class_id] != name:
            raise BadData(f"{entry} has the name {name!r}, but {self.names[class_id]!r} is a class too",
                          "Write the name of a class in one way", where=where)
        return class_id

    def get(self, name: str) -> int | None:
        """Return the class id of a label that was added, else None."""
        key = fold_name(name)
        if key in BACKGROUND_NAMES:
            return 0
        return IGNORED_ID if key in IGNORED_NAMES else self._ids.get(key)

    def describe(self) -> tuple[str, ...]:
        """Return notes on labels that are not classes."""
        return tuple(
            f"The label {name!r} is "
            + ("the background, not a class." if self.get(name) == 0 else "not a class; its pixels are ignored.")
            for name in self.special_names)


def check_distinct_names(names: Sequence[str], kind: str, where: str) -> None:
    """Raise BadData if two names are equal or differ only by case."""
    first_positions: dict[str, int] = {}
    for position, name in enumerate(names):
        key = fold_name(name)
        first = first_positions.setdefault(key, position)
        if first != position:
            raise BadData(f"{kind}[{position}] has the name {name!r}, like {kind}[{first}] ({names[first]!r})",
                          "Give every class a name of its own", where=where)


def select_labels(class_ids: Iterable[int]) -> tuple[int, ...]:
    """Return the sorted class ids 1..C among those of an image's objects."""
    return tuple(sorted({class_id for class_id in class_ids if class_id > 0}))


def add_class_names(names: LabelNames, class_names: Path | None, labels: Iterable[str], where: Path) -> None:
    """Add the classes of the file `class_names`, or without one the labels, sorted.

    Raises BadData for labels that differ only by case.
    """
    if class_names is not None:
        for name in read_class_names(class_names)[0][1:]:
            names.add(name, f"the class {name!r}", str(class_names))
        return
    for label in sorted(set(labels)):
        names.add(label, f"the label {label!r}", str(where))
