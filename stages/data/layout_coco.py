"""Import COCO's JSON files: instances (categories and outlines per image) and captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.data.annotated_images import AnnotatedImage, AnnotatedImages, build_listing, open_images
from stages.data.annotation_classes import LabelNames, check_distinct_names
from stages.data.coco_json import (
    COCO_REMEDY,
    REPAIR_REMEDY,
    CocoFile,
    Id,
    name_annotation,
    parse_segmentation,
    read_coco_file,
)
from stages.data.folders import MASK_SUFFIXES, FileFinder, require_folder
from stages.data.records import Listing
from stages.errors import BadData

_SEGMENTATION_REMEDY = "Write a list of polygons [[x1, y1, x2, y2, ...]] or an RLE, or use --no-draw-masks"


def list_coco(*annotations: Path, images: Path, captions: Path | None = None, masks: Path | None = None,
              draw_masks: bool = True) -> Listing:
    """List the images of COCO JSON files, which are below `images`.

    Categories become classes 1..C in the order of their ids; categories of further files are matched by name. Labels
    are the categories of an image's annotations, crowds too; an image without annotations is known to have no class.
    A captions file has captions and leaves the labels unknown; `captions` adds one to instances. Ids are file names
    without suffix. The ground truth is the folder `masks`, with a mask of class ids 1..C per image, named as the image;
    else the outlines of the annotations, unless `draw_masks` is False. An image with an object that has no outline has
    none.
    Raises MissingInput for a missing file or folder and if no image or no mask exists, BadData for other JSON and for
    annotations of images or categories that the file does not list.
    """
    data = open_images(require_folder(images), *([require_folder(masks)] if masks else []))
    for path in _check_unique_paths(*annotations, *([captions] if captions else [])):
        _add_file(read_coco_file(path), data, captions_only=path == captions)
    return build_listing(data, annotations[0], draw_masks=draw_masks, remedy=COCO_REMEDY,
                         mask_finder=FileFinder(masks, data.root, MASK_SUFFIXES) if masks else None)


def _check_unique_paths(*paths: Path) -> tuple[Path, ...]:
    for position, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:position]]:
            raise BadData("the file is passed twice", "Pass every file once", where=str(path))
    return paths


def _add_file(file: CocoFile, data: AnnotatedImages, *, captions_only: bool) -> None:
    """Add the images, labels, outlines and captions of a file; with `captions_only`, its captions alone."""
    data.notes += file.notes
    class_ids = {} if captions_only else _add_categories(file, data)
    image_by_id = _add_images(file, data, is_new=not captions_only)
    if file.categories and file.has_annotations and not captions_only:
        for image in image_by_id.values():
            image.has_labels = True
    for position, annotation in enumerate(file.annotations):
        image_id = annotation["image_id"]
        if image_id not in image_by_id:
            raise BadData(f"{name_annotation(position, annotation)} is of image {image_id}, which is not in "
                          '"images"', REPAIR_REMEDY, where=str(file.path))
        if isinstance(annotation.get("caption"), str):
            image_by_id[image_id].captions += [" ".join(annotation["caption"].split())]
        if not captions_only and ("caption" not in annotation or "category_id" in annotation):
            _add_object(annotation, position, file, image_by_id[image_id], class_ids)


def _add_categories(file: CocoFile, data: AnnotatedImages) -> dict[Id, int]:
    """Add the categories of a file in the order of their ids; return the class ids by category id."""
    where, categories = str(file.path), list(file.categories.values())
    for position, category in enumerate(categories):
        LabelNames().add(category["name"], f"categories[{position}]", where)
    check_distinct_names([category["name"] for category in categories], "categories", where)
    project = _find_project_category(file)
    if project is not None:
        data.notes.append(f"Dropped the category {project['name']!r} (id {project['id']}) of {file.path.name}: it is "
                          "the name of a Roboflow project, and nothing is annotated with it.")
    categories.sort(key=lambda category: (isinstance(category["id"], str), category["id"]))
    return {category["id"]: data.names.add(category["name"], f"category {category['id']}", where)
            for category in categories if category is not project}


def _find_project_category(file: CocoFile) -> dict[str, Any] | None:
    """Return the category that Roboflow's exports have before the classes, which all name it as supercategory."""
    project, *others = list(file.categories.values()) or [{}]
    is_project = (bool(others) and project.get("supercategory") == "none"
                  and all(other.get("supercategory") == project["name"] for other in others)
                  and all(annotation.get("category_id") != project["id"] for annotation in file.annotations))
    return project if is_project else None


def _add_images(file: CocoFile, data: AnnotatedImages, *, is_new: bool) -> dict[Id, AnnotatedImage]:
    """Return the images of a file by id. Those that no file had before are added if `is_new`."""
    image_by_id: dict[Id, AnnotatedImage] = {}
    paths: set[str] = set()
    for image_id, entry in file.images.items():
        path = _find_path(entry, data, str(file.path))
        if path in paths:
            raise BadData(f"image {image_id} has the file {path}, which another entry of images has too",
                          "List every image once", where=str(file.path))
        paths.add(path)
        image_by_id[image_id] = image = data.get(path)
        if is_new:
            data.images[path] = image
    return image_by_id


def _find_path(entry: dict[str, Any], data: AnnotatedImages, where: str) -> str:
    """Return the path of an image below the folder of the images, by `file_name`, or LVIS's `coco_url`."""
    name = entry.get("file_name", entry.get("coco_url"))
    if not isinstance(name, str) or not name.strip():
        message = "lacks file_name" if name is None else f"has {name!r} as file_name"
        raise BadData(f"image {entry['id']} {message}", REPAIR_REMEDY, where=where)
    return data.find_path(name, where)


def _add_object(annotation: dict[str, Any], position: int, file: CocoFile, image: AnnotatedImage,
                class_ids: dict[Id, int]) -> None:
    """Add the class and the outline of an object to its image."""
    entry, where = name_annotation(position, annotation), str(file.path)
    category_id, is_crowd = annotation.get("category_id"), annotation.get("iscrowd") or 0
    if category_id is None:
        raise BadData(f"{entry} has no category_id", "Add it, or remove the annotation", where=where)
    if category_id not in class_ids:
        raise BadData(f'{entry} is of category {category_id}, which is not in "categories"', REPAIR_REMEDY, where=where)
    if is_crowd not in (0, 1):
        raise BadData(f"{entry} has {is_crowd!r} as iscrowd, which must be 0 or 1", REPAIR_REMEDY, where=where)
    region = parse_segmentation(annotation.get("segmentation"), file.images[annotation["image_id"]], entry, where,
                                remedy=_SEGMENTATION_REMEDY)
    image.add_object(class_ids[category_id], region, is_crowd=bool(is_crowd), where=f"{file.path.name}: {entry}")
