"""Import the PASCAL VOC devkit layout: JPEGImages, Annotations, ImageSets, SegmentationClass.

The augmented train set, train_aug, comes in two forms: VOC and SBD as published by their authors, or all masks in a
second folder with lists whose rows are "/JPEGImages/ID.jpg /SegmentationClassAug/ID.png" (the DeepLab lists of Chen et
al., also used by PSA).
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from stages.data.folders import (
    MASK_SUFFIXES,
    FileFinder,
    find_common_root,
    has_image_suffix,
    read_labels_from_masks,
    require_folder,
    resolve_inside_root,
)
from stages.data.records import (
    LABELS_FROM_MASKS_NOTE,
    ImageRecord,
    Listing,
    TableEntry,
    collect_table_entries,
    describe_count,
    infer_supervision,
    resolve_class_ids,
)
from stages.data.sbd import TRAIN_AUG, find_sbd_masks, list_train_aug
from stages.data.tables import check_unique_ids, parse_ids, read_class_names, read_id_lines, read_table
from stages.errors import BadData, MissingInput

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class _ListEntry:
    """An image of a split or list: its id, and its image and mask if the list names them."""

    id: str
    image: str | None = None
    mask: str | None = None


def list_voc(
    root: Path,
    *,
    split: str | None = None,
    list_file: Path | None = None,
    masks: Path | None = None,
    sbd: Path | None = None,
    labels: Path | None = None,
    captions: Path | None = None,
    class_names: Path | None = None,
    classes: tuple[str, ...] | None = None,
    labels_from_masks: bool = False,
) -> Listing:
    """List the images of a VOC folder: those of `split` or `list_file`, else all of JPEGImages.

    Tags come from the `labels` table if given, else from Annotations/*.xml (the union of the object names, including
    difficult ones, as in all published VOC labels), else they are unknown. The mask of an image comes from `masks`,
    else from its row in the list, else from SegmentationClass, else from `sbd`: the release of SBD, whose images also
    define the split train_aug if VOC has no list of that name. Classes come from the file `class_names`,
    else they are `classes` (position 0: the background), else those of root/classes.txt, else VOC's twenty.
    Raises MissingInput for a missing folder, list or table and if no image exists, BadData for tags that are not
    classes, malformed XML and malformed lists.
    """
    root = require_folder(root)
    _check_layout(root)
    sbd_masks = find_sbd_masks(sbd) if sbd else None
    entries, notes = _list_entries(root, split, list_file, sbd_masks)
    classes = _read_classes(root, class_names) if class_names or classes is None else classes
    base = find_common_root(root, *([require_folder(masks)] if masks else []), *([sbd_masks] if sbd_masks else []))
    labels_by_id, label_notes = _read_labels(root, labels, classes, [entry.id for entry in entries])
    notes += label_notes
    captions_by_id = _read_captions(captions or labels)
    records = _find_files(entries, root, base, masks, sbd_masks)
    records = [
        ImageRecord(record.id, record.path, labels_by_id.get(record.id), record.mask_path,
                    captions_by_id.get(record.id, TableEntry(0)).captions)
        for record in records
    ]
    if labels_from_masks:
        labelled_records, mask_notes = read_labels_from_masks(records, base, len(classes) - 1)
        records = list(labelled_records)
        notes += (*mask_notes, LABELS_FROM_MASKS_NOTE)
    num_unknown = sum(record.labels is None for record in records)
    notes += describe_count(num_unknown, len(records), "have no tags (unknown)") if not labels_from_masks else ()
    notes += describe_count(sum(record.mask_path is None for record in records), len(records), "have no mask")
    if sbd_masks is not None:
        notes += describe_count(sum(str(record.mask_path).endswith(".mat") for record in records), len(records),
                                "have a mask of SBD, which has no border of 255 around objects")
    if captions is not None:
        notes += describe_count(sum(bool(record.captions) for record in records), len(records), "have captions")
    supervision = infer_supervision(records, from_masks=labels_from_masks)
    return Listing(base, classes, tuple(records), notes, supervision)


def _check_layout(root: Path) -> None:
    """Raise MissingInput if `root` is not a VOC folder, with the VOC folder inside it if there is one."""
    if (root / "JPEGImages").is_dir():
        return
    candidates = sorted(path.parent for path in root.glob("*/JPEGImages")) + sorted(
        path.parent for path in root.glob("VOCdevkit/*/JPEGImages")
    )
    remedy = f"Did you mean {candidates[0]}?" if candidates else "Pass the folder that contains JPEGImages"
    raise MissingInput("there is no folder JPEGImages", remedy, where=str(root))


def _list_entries(
    root: Path, split: str | None, list_file: Path | None, sbd_masks: Path | None
) -> tuple[list[_ListEntry], tuple[str, ...]]:
    """Return the images of a split, a list or the whole folder, and notes for the user."""
    lists = root / "ImageSets" / "Segmentation"
    if split == TRAIN_AUG and sbd_masks is not None and not (lists / f"{split}.txt").is_file():
        ids, notes = list_train_aug(lists, sbd_masks)
        return [_ListEntry(image_id) for image_id in ids], notes
    if split is None and list_file is None:
        return [_ListEntry(image_id) for image_id in FileFinder(root / "JPEGImages", root).list_ids()], ()
    return _read_list(list_file if list_file is not None else _find_split_file(root, str(split)), root), ()


def _read_list(path: Path, root: Path) -> list[_ListEntry]:
    """Read a list of ids, or of the paths of images and masks."""
    lines = read_id_lines(path)
    if not any(has_image_suffix(text.split()[0]) for _, text in lines):
        return [_ListEntry(image_id) for image_id in parse_ids(lines, path)]
    rows = [(line, _parse_row(text, root, f"{path}:{line}")) for line, text in lines]
    check_unique_ids([(line, entry.id) for line, entry in rows], path)
    return [entry for _, entry in rows]


def _find_split_file(root: Path, split: str) -> Path:
    folder = root / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if path.is_file():
        return path
    if split == TRAIN_AUG:
        raise MissingInput(f"there is no split {split!r}, which is VOC's train plus SBD's images",
                           "Use --sbd DIR with the folder of SBD, or --list FILE", where=str(folder))
    splits = ", ".join(sorted(file.stem for file in folder.glob("*.txt"))) or "none"
    raise MissingInput(f"there is no split {split!r} (available: {splits})",
                       "Use --split with one of these, or --list FILE", where=str(folder))


def _parse_row(text: str, root: Path, where: str) -> _ListEntry:
    # Published lists write paths below the root with a leading '/'.
    image, *masks = (resolve_inside_root(path.lstrip("/"), root, where) for path in text.split())
    return _ListEntry(posixpath.splitext(posixpath.basename(image))[0], image, masks[0] if masks else None)


def _read_classes(root: Path, class_names: Path | None) -> tuple[str, ...]:
    if class_names is None and (root / "classes.txt").is_file():
        class_names = root / "classes.txt"
    return VOC_CLASSES if class_names is None else read_class_names(class_names)[0]


def _read_labels(
    root: Path, labels: Path | None, classes: tuple[str, ...], ids: list[str]
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Return the labels of the images whose tags are known, by id, and notes for the user."""
    annotations = root / "Annotations"
    if labels is not None:
        rows = read_table(labels)
        table = collect_table_entries(rows, [_read_id(row.fields) for row in rows], classes, labels)
        tagged = {image_id: table[image_id] for image_id in ids
                  if image_id in table and table[image_id].tags is not None}
        notes = (f"The tags are from {labels.name}, not from Annotations.",) if annotations.is_dir() else ()
        return {
            image_id: resolve_class_ids(entry.tags or (), classes, f"{labels}:{entry.line}")
            for image_id, entry in tagged.items()
        }, notes
    if annotations.is_dir():
        files = {image_id: annotations / f"{image_id}.xml" for image_id in ids}
        return {image_id: _read_xml_labels(file, classes) for image_id, file in files.items() if file.is_file()}, ()
    remedy = " To read labels.csv in this folder, use --labels labels.csv." if (root / "labels.csv").is_file() else ""
    return {}, (f"The tags are unknown: there is no folder Annotations and no --labels table.{remedy}",)


def _read_id(fields: dict) -> str:
    return str(fields["id"]) if "id" in fields else posixpath.splitext(posixpath.basename(str(fields["path"])))[0]


def _read_captions(path: Path | None) -> dict[str, TableEntry]:
    if path is None:
        return {}
    rows = read_table(path)
    return collect_table_entries(rows, [_read_id(row.fields) for row in rows], (), path)


def _read_xml_labels(path: Path, classes: tuple[str, ...]) -> tuple[int, ...]:
    try:
        names = [name.text or "" for name in ElementTree.parse(path).getroot().findall("object/name")]
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two for its encoding
        raise BadData(f"the XML is malformed ({error})", "Replace the file, or use --labels FILE",
                      where=str(path)) from error
    return resolve_class_ids([name.strip() for name in names], classes, str(path))


def _find_files(
    entries: list[_ListEntry], root: Path, base: Path, masks: Path | None, sbd_masks: Path | None
) -> list[ImageRecord]:
    """Find the image and the mask of each entry. Raises MissingInput if no image, or no mask of `masks`, exists."""
    root_finder = FileFinder(root, base)
    image_finder = FileFinder(root / "JPEGImages", base)
    mask_finder = FileFinder(masks or root / "SegmentationClass", base, MASK_SUFFIXES)
    sbd_finder = FileFinder(sbd_masks, base, (".mat",)) if sbd_masks else None
    records = []
    num_missing = 0
    for entry in entries:
        path = (root_finder.find(entry.image) if entry.image else None) or image_finder.find(entry.id)
        num_missing += path is None
        mask = root_finder.find(entry.mask) if entry.mask and masks is None else mask_finder.find(entry.id)
        mask = mask or (sbd_finder.find(entry.id) if sbd_finder else None)
        records.append(ImageRecord(entry.id, path or image_finder.relative_to_root(f"{entry.id}.jpg"), mask_path=mask))
    if num_missing == len(records):
        raise MissingInput(f"none of the {len(records)} images exists in this folder",
                           "Check the ids in --list or --split", where=str(image_finder.folder))
    if masks is not None and not any(record.mask_path for record in records):
        raise MissingInput(f"none of the {len(records)} images has a mask in this folder", "Check --masks",
                           where=str(masks))
    return records
