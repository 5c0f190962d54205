"""Importer of the PASCAL VOC devkit layout: JPEGImages, Annotations, ImageSets, SegmentationClass.

The augmented train set, train_aug, comes in two ways: as VOC and SBD, each as its authors publish it, or with all masks
drawn into another folder and lists whose rows are "/JPEGImages/ID.jpg /SegmentationClassAug/ID.png" (Chen et al.'s
DeepLab lists, also PSA's).
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from stages.data.folders import (
    MASK_SUFFIXES,
    FileFinder,
    below,
    common_root,
    existing_folder,
    is_image,
    with_labels_of_masks,
)
from stages.data.records import Known, Listing, Record, class_ids, collect, counted, supervision_of
from stages.data.sbd import TRAIN_AUG, masks_of_sbd, train_aug
from stages.data.tables import ids_of, read_class_names, read_lines, read_table, unique
from stages.errors import BadData, MissingInput

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(frozen=True)
class _Listed:
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
    labels_from_masks: bool = False,
) -> Listing:
    """Return the listing of a VOC folder: images of `split` or `list_file`, else all of JPEGImages.

    Tags come from the `labels` table when given, else from Annotations/*.xml (the union of the object names,
    difficult ones too, as all published VOC labels do), else they are unknown. Masks come from `masks`, else
    from the list's own rows, else from SegmentationClass, where the file is there, else from `sbd`: the release of
    SBD, whose images also make the split train_aug where VOC has no list of that name. Classes come from
    `class_names`, else root/classes.txt, else they are VOC's twenty.
    Raises MissingInput for a missing folder, list or table and when no image is found, BadData for tags that are
    no class, broken XML and bad lists.
    """
    root = existing_folder(root)
    _check_layout(root)
    cls = masks_of_sbd(sbd) if sbd else None
    listed, notes = _listed(root, split, list_file, cls)
    classes = _classes(root, class_names)
    base = common_root(root, *([existing_folder(masks)] if masks else []), *([cls] if cls else []))
    known, more = _known(root, labels, classes, [one.id for one in listed])
    notes += more
    told = _captions(captions or labels)
    records = _records(listed, root, base, masks, cls)
    records = [
        Record(one.id, one.path, known.get(one.id), one.mask_path, told.get(one.id, Known(0)).captions)
        for one in records
    ]
    if labels_from_masks:
        labelled, more = with_labels_of_masks(records, base, len(classes) - 1)
        records = list(labelled)
        notes += (*more, "labels were read from the masks: the ground truth supervises")
    unknown = sum(one.labels is None for one in records)
    notes += counted(unknown, len(records), "have no tags (unknown)") if not labels_from_masks else ()
    notes += counted(sum(one.mask_path is None for one in records), len(records), "have no mask")
    if cls is not None:
        notes += counted(sum(str(one.mask_path).endswith(".mat") for one in records), len(records),
                         "have a mask of SBD, without VOC's border of 255")
    if captions is not None:
        notes += counted(sum(bool(one.captions) for one in records), len(records), "have captions")
    supervision = supervision_of(records, from_masks=labels_from_masks)
    return Listing(base, classes, tuple(records), notes, supervision)


def _check_layout(root: Path) -> None:
    if (root / "JPEGImages").is_dir():
        return
    inside = sorted(path.parent for path in root.glob("*/JPEGImages")) + sorted(
        path.parent for path in root.glob("VOCdevkit/*/JPEGImages")
    )
    do = f"did you mean {inside[0]}?" if inside else "give the folder that holds JPEGImages"
    raise MissingInput("no folder JPEGImages", do, where=str(root))


def _listed(
    root: Path, split: str | None, list_file: Path | None, cls: Path | None
) -> tuple[list[_Listed], tuple[str, ...]]:
    lists = root / "ImageSets" / "Segmentation"
    if split == TRAIN_AUG and cls is not None and not (lists / f"{split}.txt").is_file():
        ids, notes = train_aug(lists, cls)
        return [_Listed(name) for name in ids], notes
    return _as_listed(root, split, list_file), ()


def _as_listed(root: Path, split: str | None, list_file: Path | None) -> list[_Listed]:
    if split is None and list_file is None:
        return [_Listed(name) for name in FileFinder(root / "JPEGImages", root).names()]
    path = list_file if list_file is not None else _split_file(root, str(split))
    lines = read_lines(path)
    if not any(is_image(text.split()[0]) for _, text in lines):
        return [_Listed(name) for name in ids_of(lines, path)]
    rows = [(line, _of_row(text, root, f"{path}:{line}")) for line, text in lines]
    unique([(line, one.id) for line, one in rows], path)
    return [one for _, one in rows]


def _split_file(root: Path, split: str) -> Path:
    folder = root / "ImageSets" / "Segmentation"
    path = folder / f"{split}.txt"
    if path.is_file():
        return path
    if split == TRAIN_AUG:
        raise MissingInput(f"no split {split!r}", "it is VOC's train and SBD's images: give --sbd DIR, the folder of "
                           "SBD; or --list FILE", where=str(folder))
    there = ", ".join(sorted(one.stem for one in folder.glob("*.txt"))) or "none"
    raise MissingInput(f"no split {split!r}", f"splits here: {there}; or give --list FILE", where=str(folder))


def _of_row(text: str, root: Path, where: str) -> _Listed:
    # Published lists write paths below the root with a leading '/'.
    image, *mask = (below(part.lstrip("/"), root, where) for part in text.split())
    return _Listed(posixpath.splitext(posixpath.basename(image))[0], image, mask[0] if mask else None)


def _classes(root: Path, class_names: Path | None) -> tuple[str, ...]:
    if class_names is None and (root / "classes.txt").is_file():
        class_names = root / "classes.txt"
    return VOC_CLASSES if class_names is None else read_class_names(class_names)[0]


def _known(
    root: Path, labels: Path | None, classes: tuple[str, ...], ids: list[str]
) -> tuple[dict[str, tuple[int, ...]], tuple[str, ...]]:
    annotations = root / "Annotations"
    if labels is not None:
        rows = read_table(labels)
        table = collect(rows, [_key(row.fields) for row in rows], classes, labels)
        asked = {name: table[name] for name in ids if name in table and table[name].tags is not None}
        note = (f"tags are from {labels.name}, not from Annotations",) if annotations.is_dir() else ()
        return {
            name: class_ids(one.tags or (), classes, f"{labels}:{one.line}") for name, one in asked.items()
        }, note
    if annotations.is_dir():
        found = {name: annotations / f"{name}.xml" for name in ids}
        return {name: _of_xml(path, classes) for name, path in found.items() if path.is_file()}, ()
    beside = " (give --labels labels.csv?)" if (root / "labels.csv").is_file() else ""
    return {}, (f"no folder Annotations and no table of labels: tags are unknown{beside}",)


def _key(fields: dict) -> str:
    return str(fields["id"]) if "id" in fields else posixpath.splitext(posixpath.basename(str(fields["path"])))[0]


def _captions(path: Path | None) -> dict[str, Known]:
    if path is None:
        return {}
    rows = read_table(path)
    return collect(rows, [_key(row.fields) for row in rows], (), path)


def _of_xml(path: Path, classes: tuple[str, ...]) -> tuple[int, ...]:
    try:
        names = [name.text or "" for name in ElementTree.parse(path).getroot().findall("object/name")]
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter two of its encoding
        raise BadData(f"broken XML ({error})", "replace the file or give --labels", where=str(path)) from error
    return class_ids([name.strip() for name in names], classes, str(path))


def _records(listed: list[_Listed], root: Path, base: Path, masks: Path | None, cls: Path | None) -> list[Record]:
    images = FileFinder(root / "JPEGImages", base)
    in_root = FileFinder(root, base)
    mask_files = FileFinder(masks or root / "SegmentationClass", base, MASK_SUFFIXES)
    more_masks = FileFinder(cls, base, (".mat",)) if cls else None
    records = []
    missing = 0
    for one in listed:
        path = (in_root.find(one.image) if one.image else None) or images.find(one.id)
        missing += path is None
        mask = in_root.find(one.mask) if one.mask and masks is None else mask_files.find(one.id)
        mask = mask or (more_masks.find(one.id) if more_masks else None)
        records.append(Record(one.id, path or images.place(f"{one.id}.jpg"), mask_path=mask))
    if missing == len(records):
        raise MissingInput(f"none of {len(records)} images is there", "check the list", where=str(images.folder))
    if masks is not None and not any(one.mask_path for one in records):
        raise MissingInput(f"no mask of {len(records)} images is there", "check --masks", where=str(masks))
    return records
