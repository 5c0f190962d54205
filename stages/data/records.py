"""The result of an importer: one record per image, and a listing of the whole data set."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.data.shapes import Shape
from stages.errors import BadData

LABELS_FROM_MASKS_NOTE = "The labels were read from the masks, so the ground truth supervises."
_MAX_LISTED_CLASSES = 8


@dataclass(frozen=True)
class ImageRecord:
    """One image: its id, its file below the root, and its labels, mask and captions.

    `labels` are sorted class ids: () if the image is known to have no class, None if its classes are unknown.
    `byte_range` is (offset, size) of the image's bytes if `path` leads into a tar archive. `shapes` are the outlined
    objects that make the mask of an image without `mask_path`: () if it has none, None if they are unknown. `data` are
    the bytes of an image that can't be read alone, since its archive is compressed.
    """

    id: str
    path: str
    labels: tuple[int, ...] | None = None
    mask_path: str | None = None
    captions: tuple[str, ...] = ()
    byte_range: tuple[int, int] | None = None
    shapes: tuple[Shape, ...] | None = None
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Listing:
    """An imported data set: `root` contains all files, `classes` are the names by id (position 0: background, or "").

    `notes` are sentences for the user. `supervision` is the source of the labels: "tags", "masks" (a leak, since the
    ground truth supervises), "captions" or "none". `label_map` is the name of the table from mask values to class ids,
    empty if they are the same.
    """

    root: Path
    classes: tuple[str, ...]
    records: tuple[ImageRecord, ...]
    notes: tuple[str, ...] = ()
    supervision: str = "tags"
    label_map: str = ""


def resolve_class_ids(tags: Iterable[str], classes: Sequence[str], where: str) -> tuple[int, ...]:
    """Return the sorted class ids 1..C of tags; the name of the background is dropped.

    Raises BadData for a tag that is not a class, with the most similar class.
    """
    id_by_name = {name: class_id for class_id, name in enumerate(classes) if name}
    ids = set()
    for tag in tags:
        if tag not in id_by_name:
            raise BadData(f"the tag {tag!r} is not a class", _suggest_class(tag, classes), where=where)
        ids.add(id_by_name[tag])
    return tuple(sorted(ids - {0}))


def _suggest_class(tag: str, classes: Sequence[str]) -> str:
    """Return a remedy for an unknown tag: the class with the most similar name, else some classes."""
    matches = difflib.get_close_matches(tag.lower(), [name.lower() for name in classes[1:]], n=1, cutoff=0.5)
    similar = [name for name in classes[1:] if matches and name.lower() == matches[0]]
    if similar:
        return f"Did you mean {similar[0]!r}?"
    more = ", ..." if len(classes) > 6 else ""
    return f"Use one of the classes ({', '.join(classes[1:6])}{more}), or add {tag!r} to them"


def infer_supervision(records: Iterable[ImageRecord], *, from_masks: bool = False) -> str:
    """Return the source of the labels of these records: "masks", "tags", "captions" or "none"."""
    records = tuple(records)
    if any(record.labels is not None for record in records):
        return "masks" if from_masks else "tags"
    return "captions" if any(record.captions for record in records) else "none"


def describe_classes(classes: Sequence[str], records: Iterable[ImageRecord]) -> tuple[str, ...]:
    """Return a note on classes that were found in the tags, with the number of images of each."""
    counts = Counter(class_id for record in records for class_id in record.labels or ())
    listed = [f"{name} ({counts[class_id]}{(' image' if counts[1] == 1 else ' images') if class_id == 1 else ''})"
              for class_id, name in enumerate(classes[:_MAX_LISTED_CLASSES + 1]) if class_id]
    more = ", ..." if len(classes) > _MAX_LISTED_CLASSES + 1 else ""
    num_classes = len(classes) - 1
    return (f"Found {num_classes} class{'es' if num_classes > 1 else ''} in the tags: {', '.join(listed)}{more}.",)


def describe_count(count: int, total: int, predicate: str) -> tuple[str, ...]:
    """Return the note "COUNT of TOTAL images PREDICATE.", or none if the count is 0."""
    return (f"{count} of {total} images {predicate}.",) if count else ()
