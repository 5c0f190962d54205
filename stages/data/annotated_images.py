"""The images that annotation files describe: their files, tags and outlines, from which a listing is made."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.data.annotation_classes import LabelNames, select_labels
from stages.data.folders import FileFinder, find_common_root, resolve_inside_root
from stages.data.records import ImageRecord, Listing, describe_count, infer_supervision
from stages.data.shapes import Shape
from stages.data.tables import check_id
from stages.errors import BadData, MissingInput

_FOREIGN_PATH = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://|[a-zA-Z]:[\\/]|/|[^/]*\\")


@dataclass
class AnnotatedImage:
    """What the files say of one image. `has_all_shapes` is False if an object has no outline, only a box or a tag."""

    path: str
    is_missing: bool
    has_labels: bool = False
    class_ids: set[int] = field(default_factory=set)
    captions: list[str] = field(default_factory=list)
    shapes: list[Shape] = field(default_factory=list)
    has_all_shapes: bool = True

    def add_object(self, class_id: int, region: dict[str, Any] | None, **properties: Any) -> None:
        """Add an object by the fields of its shape; `region` None means that only its class is known."""
        self.class_ids.add(class_id)
        if region is None:
            self.has_all_shapes = False
        else:
            self.shapes.append(Shape(class_id, **region, **properties))


@dataclass
class AnnotatedImages:
    """The images of all files by path below `folder`, the classes, and notes for the user."""

    folder: Path
    root: Path
    finder: FileFinder
    images: dict[str, AnnotatedImage] = field(default_factory=dict)
    names: LabelNames = field(default_factory=LabelNames)
    notes: list[str] = field(default_factory=list)
    num_corrected_paths: int = 0

    def find_path(self, name: str, where: str) -> str:
        r"""Return the path of an image below the folder of the images.

        An absolute path, an address or a name with "\" is the file of the longest end of it that exists there. Raises
        BadData for a path that leads out of the folder.
        """
        if _FOREIGN_PATH.match(name):
            address = re.sub(r"[?#].*", "", name) if "://" in name else name
            path = self.find_end(address.replace("\\", "/"))
            if path is not None:
                self.num_corrected_paths += 1
                return path
        return resolve_inside_root(name, self.folder, where)

    def find_end(self, name: str) -> str | None:
        """Return the longest end of a path that is a file below the folder of the images, None if there is none."""
        parts = name.split("/")
        for first in range(len(parts)):
            path = posixpath.normpath("/".join(parts[first:]))
            if parts[first] not in ("", ".", "..") and self.has_file(path):
                return path
        return None

    def has_file(self, path: str) -> bool:
        """Return whether a path, relative to the folder of the images, is a file inside it."""
        is_inside = not posixpath.isabs(path) and posixpath.normpath(path).split("/")[0] not in ("..", ".")
        return is_inside and self.finder.find(path) is not None

    def get(self, path: str) -> AnnotatedImage:
        """Return the image of a path, new if no file had it before; it is not added."""
        return self.images.get(path) or AnnotatedImage(path, self.finder.find(path) is None)

    def add(self, path: str, where: str) -> AnnotatedImage:
        """Add an image, whose tags are known from now on. Raises BadData if another entry has added it."""
        if path in self.images:
            raise BadData(f"the image {path} has two entries", "Annotate every image once", where=where)
        image = self.images[path] = self.get(path)
        image.has_labels = True
        return image


def open_images(folder: Path, *other_folders: Path) -> AnnotatedImages:
    """Return the images below `folder`, before any is added; the root contains `other_folders` too."""
    root = find_common_root(folder, *other_folders)
    return AnnotatedImages(folder, root, FileFinder(folder, root))


def build_listing(data: AnnotatedImages, where: Path, *, draw_masks: bool, mask_finder: FileFinder | None = None,
                  remedy: str = "") -> Listing:
    """Build the listing of all images; `where` is the annotation file or folder.

    The ground truth is found by `mask_finder`, else drawn from the outlines if `draw_masks`: of every image whose
    objects all have one. Raises MissingInput if no image or no mask exists, BadData for ids that occur twice.
    """
    if not data.images:
        raise MissingInput("there is no annotated image", remedy or "Pass an export that has annotations",
                           where=str(where))
    images = list(data.images.values())
    if all(image.is_missing for image in images):
        raise MissingInput(f"none of the {len(images)} images exists in this folder",
                           f"{data.finder.describe_missing(images[0].path)}. Check --images", where=str(data.folder))
    has_shapes = draw_masks and mask_finder is None and any(image.shapes for image in images)
    records = [_build_record(image, data, mask_finder, str(where), has_shapes=has_shapes) for image in images]
    _check_ids(records, str(where))
    if mask_finder is not None and not any(record.mask_path for record in records):
        raise MissingInput(f"none of the {len(records)} images has a mask in this folder", "Check --masks",
                           where=str(mask_finder.folder))
    truth_notes = (describe_count(sum(record.mask_path is None for record in records), len(records), "have no mask")
                   if mask_finder else _describe_shapes(images, records) if draw_masks else ())
    notes = (*data.notes, *data.names.describe(), *_describe_images(data, records), *data.finder.describe_corrections(),
             *(mask_finder.describe_corrections() if mask_finder else ()), *truth_notes)
    return Listing(data.root, tuple(data.names.names), tuple(records), notes, infer_supervision(records))


def _build_record(image: AnnotatedImage, data: AnnotatedImages, mask_finder: FileFinder | None, where: str, *,
                  has_shapes: bool) -> ImageRecord:
    name = check_id(posixpath.splitext(image.path)[0], where)
    return ImageRecord(name, data.finder.find(image.path) or data.finder.relative_to_root(image.path),
                       select_labels(image.class_ids) if image.has_labels else None,
                       mask_finder.find(name) if mask_finder else None,
                       tuple(caption for caption in image.captions if caption),
                       shapes=tuple(image.shapes) if has_shapes and image.has_labels and image.has_all_shapes else None)


def _check_ids(records: list[ImageRecord], where: str) -> None:
    ids: set[str] = set()
    for record in records:
        if record.id in ids:
            raise BadData(f"two images have the id {record.id!r}", "Rename one: ids are file names without suffix",
                          where=where)
        ids.add(record.id)


def _describe_images(data: AnnotatedImages, records: list[ImageRecord]) -> tuple[str, ...]:
    images, total = list(data.images.values()), len(records)
    return (*describe_count(data.num_corrected_paths, total, "are listed by a path or an address of another place and "
                            "were found by the end of it"),
            *describe_count(sum(image.is_missing for image in images), total, "do not exist"),
            *describe_count(sum(record.labels == () for record in records), total,
                            "have no annotation, so they are known to have no class"))


def _describe_shapes(images: list[AnnotatedImage], records: list[ImageRecord]) -> tuple[str, ...]:
    """Return notes on which images get a mask from their outlines, and which do not."""
    num_shapes = sum(record.shapes is not None for record in records)
    num_boxes = sum(not image.has_all_shapes for image in images)
    return (*describe_count(num_shapes, len(records), "get a ground-truth mask from the outlines of their objects (to "
                            "index the tags alone, use --no-draw-masks)"),
            *describe_count(num_boxes, len(records), "have an object without an outline (a box only), so they have no "
                            "ground-truth mask"))
