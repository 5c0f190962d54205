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

from stages.data.class_names import ClassList, check_mask_ids, find_class_files, read_class_list
from stages.data.folders import (
    MASK_SUFFIXES,
    FileFinder,
    find_common_root,
    has_image_suffix,
    read_labels_from_masks,
    require_folder,
    resolve_inside_root,
)
from stages.data.mask_values import read_mask_values
from stages.data.records import (
    LABELS_FROM_MASKS_NOTE,
    ImageRecord,
    Listing,
    describe_count,
    infer_supervision,
    resolve_class_ids,
)
from stages.data.sbd import TRAIN_AUG, find_sbd_masks, list_train_aug
from stages.data.table_entries import TableEntry, collect_table_entries
from stages.data.tables import Table, check_unique_ids, parse_ids, read_id_lines, read_table
from stages.data.tag_parsing import TagParser
from stages.errors import BadData, MissingInput, WsssError

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
    mask_values: str = "",
) -> Listing:
    """List the images of a VOC folder: those of `split` or `list_file`, else all of JPEGImages.

    Tags come from the `labels` table if given, else from Annotations/*.xml (the union of the object names, including
    difficult ones, as in all published VOC labels), else they are unknown. The mask of an image comes from `masks`,
    else from its row in the list, else from SegmentationClass, else from `sbd`: the release of SBD, whose images also
    define the split train_aug if VOC has no list of that name. Classes come from the file `class_names`,
    else they are `classes` (position 0: the background), else those of a list in `root` such as classes.txt or CVAT's
    labelmap.txt, else VOC's twenty. `mask_values` says what the values of masks mean, as `--mask-values` does.
    Raises MissingInput for a missing folder, list or table and if no image exists, BadData for tags that are not
    classes, malformed XML and malformed lists.
    """
    root = require_folder(root)
    _check_layout(root)
    sbd_masks = find_sbd_masks(sbd) if sbd else None
    entries, notes = _list_entries(root, split, list_file, sbd_masks)
    class_file, class_list = class_names, read_class_list(class_names) if class_names else None
    if class_list is None and classes is None:
        class_file, class_list, file_notes = _find_class_list(root)
        notes += file_notes
    notes += class_list.notes if class_list else ()
    classes = class_list.names if class_list else classes or VOC_CLASSES
    base = find_common_root(root, *([require_folder(masks)] if masks else []), *([sbd_masks] if sbd_masks else []))
    labels_by_id, label_notes = _read_labels(root, labels, classes, [entry.id for entry in entries])
    notes += label_notes
    captions_by_id = _read_captions(captions or labels)
    records, file_notes = _find_files(entries, root, base, masks, sbd_masks)
    notes += file_notes
    if class_file and class_list and not mask_values and any(record.mask_path for record in records):
        check_mask_ids(class_list, class_file)
    records = [
        ImageRecord(record.id, record.path, labels_by_id.get(record.id), record.mask_path,
                    captions_by_id.get(record.id, TableEntry(0)).captions)
        for record in records
    ]
    if labels_from_masks:
        labelled_records, mask_notes = read_labels_from_masks(records, base, len(classes) - 1,
                                                              read_mask_values(mask_values, classes))
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


def _find_class_list(root: Path) -> tuple[Path | None, ClassList | None, tuple[str, ...]]:
    """Return (the file with the classes of a VOC folder, its classes, notes), or (None, None, notes) if there is none.

    Raises BadData if two files have different classes.
    """
    lists: dict[Path, ClassList] = {}
    notes: tuple[str, ...] = ()
    for path in find_class_files(root):
        try:
            lists[path] = read_class_list(path)
        except WsssError as error:
            if path.name == "classes.txt":
                raise
            notes += (f"{path.name} is not used as a list of classes: {error.message}.",)
    path = next(iter(lists), None)
    other = next((file for file, classes in lists.items() if path and classes.names != lists[path].names), None)
    if path is None:
        return None, None, notes
    if other is not None:
        raise BadData(f"{path.name} and {other.name} have different classes", f"Choose one: --class-names {path}",
                      where=str(root))
    return path, lists[path], notes


def _read_labels(
    root: Path, labels: Path | None, classes: tuple[str, ...], ids: list[str]
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Return the labels of the images whose tags are known, by id, and notes for the user."""
    annotations = root / "Annotations"
    if labels is not None:
        table = read_table(labels)
        entries, notes = collect_table_entries(table, _read_ids(table), TagParser(classes))
        if not table.has_tags and not any(entry.captions for entry in entries.values()):
            raise BadData(f"no column holds tags, only {', '.join(table.columns)}", "Call the column of tags labels",
                          where=str(labels))
        tagged = {image_id: entries[image_id] for image_id in ids
                  if image_id in entries and entries[image_id].tags is not None}
        notes += table.notes
        notes += (f"The tags are from {labels.name}, not from Annotations.",) if annotations.is_dir() else ()
        return {
            image_id: resolve_class_ids(entry.tags or (), classes, f"{labels}:{entry.line}")
            for image_id, entry in tagged.items()
        }, notes
    if annotations.is_dir():
        files = {image_id: annotations / f"{image_id}.xml" for image_id in ids}
        return _read_annotations({image_id: file for image_id, file in files.items() if file.is_file()}, classes)
    remedy = " To read labels.csv in this folder, use --labels labels.csv." if (root / "labels.csv").is_file() else ""
    return {}, (f"The tags are unknown: there is no folder Annotations and no --labels table.{remedy}",)


def _read_ids(table: Table) -> list[str]:
    return [str(row.fields["id"]) if "id" in row.fields
            else posixpath.splitext(posixpath.basename(row.fields["path"]))[0] for row in table.rows]


def _read_captions(path: Path | None) -> dict[str, TableEntry]:
    if path is None:
        return {}
    table = read_table(path, reads_tags=False)
    return collect_table_entries(table, _read_ids(table), TagParser(), reads_tags=False)[0]


def _read_annotations(
    files: dict[str, Path], classes: tuple[str, ...]
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Return (the labels of the images by id, notes). Raises BadData with all names if VOC's classes lack some."""
    parser = TagParser(classes)
    names = {image_id: _read_object_names(file) for image_id, file in files.items()}
    unknown = sorted({name for listed in names.values() for name in listed
                      if (match := parser.parse_name(name)) and match not in classes})
    if unknown and classes == VOC_CLASSES:
        first = next(files[image_id] for image_id, listed in names.items() if unknown[0] in listed)
        listed_names = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
        raise BadData(f"the objects {listed_names} are not among VOC's 20 classes",
                      "List the classes of this data set, one per line, in a file, and pass it with --class-names FILE",
                      where=str(first))
    parser = TagParser(classes)
    labels = {}
    for image_id, listed in names.items():
        tags = [match for name in listed if (match := parser.parse_name(name)) is not None]
        labels[image_id] = resolve_class_ids(tags, classes, str(files[image_id]))
    return labels, parser.list_notes()


def _read_object_names(path: Path) -> list[str]:
    try:
        names = [name.text or "" for name in ElementTree.parse(path).getroot().findall("object/name")]
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two for its encoding
        raise BadData(f"the XML is malformed ({error})", "Replace the file, or use --labels FILE",
                      where=str(path)) from error
    return [name.strip() for name in names]


def _find_files(
    entries: list[_ListEntry], root: Path, base: Path, masks: Path | None, sbd_masks: Path | None
) -> tuple[list[ImageRecord], tuple[str, ...]]:
    """Find the image and the mask of each entry; return notes on corrected names too.

    Raises MissingInput if no image, or no mask of `masks`, exists.
    """
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
                           f"{image_finder.describe_missing(entries[0].id)}. Check the ids in --list or --split",
                           where=str(image_finder.folder))
    if masks is not None and not any(record.mask_path for record in records):
        raise MissingInput(f"none of the {len(records)} images has a mask in this folder", "Check --masks",
                           where=str(masks))
    return records, tuple(note for finder in (image_finder, root_finder, mask_finder)
                          for note in finder.describe_corrections())
