"""Find the class that each imported map belongs to, and compare the classes with the tags of the image."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from stages.data.name_forms import fold_name
from stages.data.name_pattern import PLAIN_NAMES, NamePattern
from stages.data.result_files import FileMatches, remove_image_suffix
from stages.data.tag_parsing import BACKGROUND_NAMES
from stages.errors import BadData

_MAX_LISTED_CLASSES = 6


def describe_keys(classes: Sequence[str], ids_from: int, *, has_background: bool) -> str:
    """Return how class numbers are read, for people: "0 = cat, 1 = dog"."""
    first = ["0 = background"] if has_background and ids_from else []
    shown = [f"{number} = {name}" for number, name in enumerate(classes[1:_MAX_LISTED_CLASSES], ids_from)]
    more = ", ..." if len(classes) > _MAX_LISTED_CLASSES else ""
    return f"{', '.join([*first, *shown])}{more}"


def find_class_ids(keys: Sequence[str | int], classes: Sequence[str], ids_from: int, *, has_background: bool,
                   where: str) -> np.ndarray:
    """Return the class ids (K,) uint16 of names, or of numbers that start with `ids_from` at the first class.

    Raises BadData for keys without a class, for two of one class, and for a background if the maps have none.
    """
    id_by_name = {fold_name(name): class_id for class_id, name in enumerate(classes) if name}
    class_ids = [_find_class_id(key, id_by_name, classes, ids_from, where) for key in keys]
    if len(set(class_ids)) < len(class_ids):
        raise BadData(f"two maps are of the same class (the keys are {_list_keys(keys)})", "Save one map per class",
                      where=where)
    if 0 in class_ids and not has_background:
        raise BadData(f"the key {keys[class_ids.index(0)]!r} is the background with --ids-from {ids_from}",
                      "Use --background included if the maps include the background, or --ids-from 0 if 0 is the first "
                      "class", where=where)
    if has_background and 0 not in class_ids:
        raise BadData(f"there is no map of the background (the keys are {_list_keys(keys)})",
                      "Leave out --background included, or give the number of the first class with --ids-from 1",
                      where=where)
    return np.array(class_ids, dtype=np.uint16)


def _find_class_id(key: str | int, id_by_name: dict[str, int], classes: Sequence[str], ids_from: int,
                   where: str) -> int:
    name = str(key).strip()
    if fold_name(name) in id_by_name:
        return id_by_name[fold_name(name)]
    if fold_name(name) in BACKGROUND_NAMES and classes[0]:
        return 0
    number = int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else -1
    class_id = number + 1 - ids_from
    if number < 0 or class_id >= len(classes) or (class_id == 0 and not classes[0]):
        last = len(classes) - 2 + ids_from
        raise BadData(f"the key {key!r} is no class", f"The classes are {ids_from} to {last} with --ids-from "
                      f"{ids_from} ({describe_keys(classes, ids_from, has_background=False)}), or their names",
                      where=where)
    return class_id


def _list_keys(keys: Sequence[str | int]) -> str:
    return ", ".join(map(str, keys[:8])) + (", ..." if len(keys) > 8 else "") or "none"


def select_tagged(class_ids: np.ndarray, labels: Iterable[int] | None, rule: str, *, keys: Sequence[str | int],
                  classes: Sequence[str], ids_from: int, where: str) -> np.ndarray:
    """Return the positions of the maps to import: all, or with the rule `drop` those of the image's tags.

    With the rule `reject` raises BadData for a map of a class that is not among the tags `labels` (None: unknown).
    """
    positions = np.argsort(class_ids, kind="stable")
    if labels is None or rule == "keep":
        return positions
    allowed = {0, *labels}
    others = [position for position in positions.tolist() if int(class_ids[position]) not in allowed]
    if not others or rule == "drop":
        return np.array([position for position in positions.tolist() if position not in others], dtype=np.int64)
    tags = ", ".join(classes[class_id] for class_id in sorted(labels)) or "none"
    raise BadData(f"there is a map of {classes[int(class_ids[others[0]])]} (key {keys[others[0]]}), but the tags of "
                  f"the image are {tags}",
                  _suggest_other_classes(class_ids, allowed, ids_from), where=where)


def _suggest_other_classes(class_ids: np.ndarray, allowed: set[int], ids_from: int) -> str:
    """Return a remedy: the other way of counting if that fits the tags, else what to do with these maps."""
    other = 1 - ids_from
    shifted = {int(class_id) + ids_from - other for class_id in class_ids}
    keep_or_drop = "--other-classes keep imports such maps, and --other-classes drop leaves them out"
    if not shifted <= allowed:
        return f"Check the order of the classes; {keep_or_drop}"
    if 0 in shifted:
        return f"If key 0 is the background, use --ids-from 1 --background included; otherwise {keep_or_drop}"
    return f"The keys fit the tags with --ids-from {other}"


def match_class_files(ids: Sequence[str], files: Iterable[str], classes: Sequence[str],
                      suffixes: Sequence[str], pattern: NamePattern = PLAIN_NAMES) -> tuple[
                          dict[str, dict[str, str]], FileMatches]:
    """Match files ID_CLASS.SUFFIX and ID/CLASS.SUFFIX with images, where CLASS is a name or a number.

    With a `pattern`, its {id} is ID_CLASS or ID/CLASS. Returns the file of each class by image id, and the files that
    belong to no image and class.
    """
    names = {fold_name(name) for name in (*classes, *BACKGROUND_NAMES) if name}
    ids_by_name = {name: item_id for item_id in ids for name in (item_id, remove_image_suffix(item_id))}
    by_image: dict[str, dict[str, str]] = defaultdict(dict)
    matches = FileMatches()
    for file in files:
        stem, suffix = posixpath.splitext(file)
        name = pattern.extract_name(stem, suffix)
        pairs = _split_stem(name, names, ids_by_name) if name and suffix.lower() in suffixes else []
        if len(pairs) == 1:
            item_id, key = pairs[0]
            if key in by_image[item_id]:
                matches.problems[item_id] = f"there are two files of {key}: {by_image[item_id][key]} and {file}"
            by_image[item_id][key] = file
        elif pairs:
            images = " and to ".join(item_id for item_id, _ in pairs)
            matches.problems.update((item_id, f"the file {file} can belong to {images}") for item_id, _ in pairs)
        else:
            matches.unused.append(file)
    return dict(by_image), matches


def _split_stem(stem: str, names: set[str], ids_by_name: dict[str, str]) -> list[tuple[str, str]]:
    """Return every way of reading a file name without suffix as (image id, name or number of the class)."""
    pairs = []
    for position, character in enumerate(stem):
        if character in "_/":
            key = stem[position + 1:]
            is_class = fold_name(key) in names or (key.isascii() and key.isdecimal())
            if is_class and stem[:position] in ids_by_name:
                pairs.append((ids_by_name[stem[:position]], key))
    return pairs
