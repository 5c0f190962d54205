"""The one rule for lists of class names: the background comes first, once, and names are unique.

`class_files` reads the formats of such lists; this module says what the names and the numbers in them mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.data.class_files import CVAT_LABEL_MAP, ClassEntry, read_class_entries
from stages.data.name_forms import fold_name
from stages.data.tag_parsing import BACKGROUND_NAMES, IGNORED_NAMES, is_background
from stages.errors import BadData, MissingInput

IGNORED_ID = 255
_MAX_LISTED = 25
# Lists that programs write next to images, in the order in which they are looked for.
CLASS_FILE_NAMES = ("classes.txt", "class_names.txt", "labelmap.txt", "labels.txt")


@dataclass(frozen=True)
class ClassList:
    """The names of classes by id, position 0 being "background", or "" if the set has no background.

    `mask_ids` maps the numbers that the file gives its classes to class ids, if they differ (for masks that hold
    these numbers), else it is empty; an ignored class becomes 255. `notes` are sentences for the user.
    """

    names: tuple[str, ...]
    mask_ids: dict[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def has_background(self) -> bool:
        return bool(self.names[0])


def read_class_list(path: Path) -> ClassList:
    """Read the class names of a file; see `class_files` for the formats.

    A background in any position, under any of its usual names, becomes class 0; `void` and `__ignore__` are pixels
    without a class. If `void` is the only one of them, the set has no background; if there is none, one is added.
    Raises MissingInput for a file without classes, BadData with both places for a repeated name.
    """
    path = Path(path)
    entries, kind, notes = read_class_entries(path)
    _check_unique(entries, path)
    backgrounds = [entry for entry in entries if fold_name(entry.name) in BACKGROUND_NAMES]
    ignored = [entry for entry in entries if fold_name(entry.name) in IGNORED_NAMES or entry.is_ignored]
    classes = [entry for entry in entries if entry not in backgrounds and entry not in ignored]
    if not classes:
        raise MissingInput("the file has no class names", "Write one name per line", where=str(path))
    is_void = not backgrounds and any(fold_name(entry.name) == "void" for entry in ignored)
    classes.sort(key=lambda entry: 0 if entry.number is None else entry.number)
    names = ("" if is_void else "background", *(entry.name for entry in classes))
    id_by_name = {entry.name: class_id for class_id, entry in enumerate(classes, 1)}
    id_by_name.update({entry.name: 0 for entry in backgrounds})
    id_by_name.update({entry.name: 0 if is_void and fold_name(entry.name) == "void" else IGNORED_ID
                       for entry in ignored})
    mask_ids = {} if kind == CVAT_LABEL_MAP else _map_numbers(entries, id_by_name)
    return ClassList(names, mask_ids, notes + _describe(names, entries, mask_ids, kind, path))


def read_class_names(path: Path) -> tuple[tuple[str, ...], bool]:
    """Return the class names by id of a file, and whether the set has a background; like `read_class_list`."""
    class_list = read_class_list(path)
    return class_list.names, class_list.has_background


def check_mask_ids(class_list: ClassList, path: Path) -> None:
    """Raise BadData if masks with the numbers of a class list would be read as other classes."""
    if class_list.mask_ids:
        pairs = ",".join(f"{number}={'ignore' if class_id == IGNORED_ID else class_id}"
                         for number, class_id in sorted(class_list.mask_ids.items()))
        same = ",".join(f"{value}={value}" for value in range(len(class_list.names)))
        raise BadData("the numbers of the classes in this file are not the ids in masks of wsss "
                      f"({describe_classes_by_id(class_list.names)}), so the masks may hold other numbers",
                      f"Use --mask-values {pairs} if the masks hold the numbers of the file, or --mask-values {same} "
                      "if they hold the ids of wsss", where=str(path))


def describe_classes_by_id(names: Sequence[str]) -> str:
    """Return "0 background, 1 cat, 2 dog", shortened if there are many."""
    listed = [f"{class_id} {name or '(ignored)'}" for class_id, name in enumerate(names[:_MAX_LISTED])]
    return ", ".join(listed) + (f", ... {len(names) - 1} {names[-1]}" if len(names) > _MAX_LISTED else "")


def find_class_files(folder: Path) -> list[Path]:
    """Return the files directly in a folder that have the name of a class list, the most usual name first."""
    return [folder / name for name in CLASS_FILE_NAMES if (folder / name).is_file()]


def _check_unique(entries: Sequence[ClassEntry], path: Path) -> None:
    """Raise BadData for repeated names, apart from letter case, for two backgrounds and for repeated numbers."""
    by_key: dict[str, ClassEntry] = {}
    by_number: dict[int, ClassEntry] = {}
    for entry in entries:
        key = "background" if fold_name(entry.name) in BACKGROUND_NAMES else fold_name(entry.name)
        earlier = by_key.setdefault(key, entry)
        if earlier is not entry:
            form = "" if earlier.name == entry.name else f" (as {earlier.name!r})"
            unit = "lines" if entry.place.startswith("line") else "entries"
            numbers = f"{earlier.place.split()[1]} and {entry.place.split()[1]}"
            raise BadData(f"the class {entry.name!r} is repeated in {unit} {numbers}{form}", "Keep one of them",
                          where=str(path))
        if entry.number is None:
            continue
        earlier = by_number.setdefault(entry.number, entry)
        if earlier is not entry:
            raise BadData(f"{earlier.name!r} and {entry.name!r} have the same number {entry.number} ({earlier.place}, "
                          f"{entry.place})", "Give each class a number of its own", where=str(path))


def _map_numbers(entries: Sequence[ClassEntry], id_by_name: dict[str, int]) -> dict[int, int]:
    """Return the class id of each number of a file, or nothing if masks with these numbers need no change.

    The numbers are those that the file states. A list without numbers has those of its positions if it names a
    background, since such a list counts from 0 (labelme counts its first line `__ignore__` as -1).
    """
    states_numbers = any(entry.number is not None for entry in entries)
    if not states_numbers and not any(is_background(entry.name) for entry in entries):
        return {}
    start = -1 if fold_name(entries[0].name) == "__ignore__" else 0
    mapping = {position if entry.number is None else entry.number: id_by_name[entry.name]
               for position, entry in enumerate(entries, start)}
    needs_change = any(number not in (class_id, -1) for number, class_id in mapping.items() if class_id != IGNORED_ID)
    return {number: class_id for number, class_id in mapping.items() if number >= 0} if needs_change else {}


def _describe(names: tuple[str, ...], entries: Sequence[ClassEntry], mask_ids: dict[int, int], kind: str,
              path: Path) -> tuple[str, ...]:
    note = f"The classes of {path.name}{f' ({kind})' if kind else ''} are {describe_classes_by_id(names)}."
    first = next((entry.name for entry in entries if fold_name(entry.name) != "__ignore__"), "")
    moved = [entry.name for entry in entries if is_background(entry.name) and fold_name(entry.name) != "__ignore__"]
    if moved and not is_background(first):
        note += f" {moved[0]!r} was moved to the front."
    if mask_ids:
        pairs = ", ".join(f"{number} became {'ignored' if class_id == IGNORED_ID else class_id}"
                          for number, class_id in sorted(mask_ids.items())[:4])
        more = ", ..." if len(mask_ids) > 4 else ""
        note += f" These ids differ from the numbers in the file ({pairs}{more})."
    return (note,)
