"""Import CVAT's exports: "CVAT for images 1.1" (XML) and "Segmentation mask 1.1" (masks in colours)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from stages.data.annotated_images import AnnotatedImage, AnnotatedImages, build_listing, open_images
from stages.data.annotation_json import draw_ellipse, read_size
from stages.data.colour_masks import list_colour_masks
from stages.data.folders import require_folder
from stages.data.records import Listing
from stages.data.run_lengths import place_bitmap
from stages.data.tables import read_text_file
from stages.errors import BadData, MissingInput

_REMEDY = 'Export the task from CVAT as "CVAT for images 1.1" or "Segmentation mask 1.1"'
_OUTLINES = ("polygon", "mask", "ellipse")
_OTHER_SHAPES = ("box", "polyline", "points", "cuboid", "skeleton")


def list_cvat(path: Path, *, images: Path | None = None, draw_masks: bool = True) -> Listing:
    """List the images of an export of CVAT: an XML file, or a folder with annotations.xml or labelmap.txt.

    Classes are the labels of the task in their order. Shapes of a higher z_order cover those of a lower one, and later
    ones earlier ones. Polygons, masks and ellipses make masks; boxes and tags make tags only. Images are in `images`,
    else in the folder `images` next to the XML file.
    Raises MissingInput for a missing file and if no image exists, BadData for anything else in the file.
    """
    if path.is_dir() and (path / "labelmap.txt").is_file():
        return list_colour_masks(path, images=images, draw_masks=draw_masks)
    file = _find_file(path)
    root = _parse(file)
    data = open_images(require_folder(images) if images else _find_images(file.parent))
    _add_names(root, data, str(file))
    shape_counts = Counter[str]()
    for element in root.iter("image"):
        name = element.get("name") or ""
        if not name:
            raise BadData(f"the image {element.get('id')} has no name", _REMEDY, where=str(file))
        image = data.add(_find_path(name, element.get("subset"), data, str(file)), str(file))
        shape_counts.update(_add_shapes(element, name, image, data, str(file)))
    others = [f"{shape_counts[name]} {name}" for name in _OTHER_SHAPES if shape_counts[name]]
    if others:
        data.notes.append(f"Shapes that are no outlines make tags only: {', '.join(others)}.")
    return build_listing(data, file, draw_masks=draw_masks)


def _find_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = [path / "annotations.xml"] if (path / "annotations.xml").is_file() else sorted(path.glob("*.xml"))
    if len(files) != 1:
        raise MissingInput("there is no annotations.xml and no labelmap.txt" if not files else
                           f"there are {len(files)} XML files, such as {files[0].name}",
                           _REMEDY if not files else f"Pass one of them: `wsss index cvat {files[0]}`", where=str(path))
    return files[0]


def _find_images(folder: Path) -> Path:
    return folder / "images" if (folder / "images").is_dir() else folder


def _parse(file: Path) -> ElementTree.Element:
    """Return the root of the XML. Raises BadData for another document, and for a DOCTYPE, which could expand."""
    text = read_text_file(file)
    if "<!DOCTYPE" in text:
        raise BadData("the file has a DOCTYPE, which CVAT does not write", "Remove it", where=str(file))
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise BadData(f"the XML is malformed ({error})", _REMEDY, where=str(file)) from None
    if root.tag != "annotations":
        raise BadData(f"the XML is a document of the type {root.tag!r}, not annotations of CVAT", _REMEDY,
                      where=str(file))
    if root.find("track") is not None:
        raise BadData('the file has tracks ("CVAT for video")', 'Export the task as "CVAT for images 1.1"',
                      where=str(file))
    return root


def _add_names(root: ElementTree.Element, data: AnnotatedImages, where: str) -> None:
    """Add the labels of the task, in its order; without a list of them, those of the shapes, sorted."""
    labels = [label for label in root.iterfind("./meta//labels/label") if label.find("parent") is None]
    names: Iterable[str] = [(label.findtext("name") or "").strip() for label in labels]
    if not labels:
        names = sorted({shape.get("label") or "" for image in root.iter("image") for shape in image})
    for name in names:
        data.names.add(name, f"the label {name!r}", where)


def _find_path(name: str, subset: str | None, data: AnnotatedImages, where: str) -> str:
    """Return the path of an image below the folder of the images; an export of a project has a folder per subset."""
    if not data.has_file(name) and subset and data.has_file(f"{subset}/{name}"):
        return f"{subset}/{name}"
    return data.find_path(name, where)


def _add_shapes(element: ElementTree.Element, name: str, image: AnnotatedImage, data: AnnotatedImages,
                where: str) -> list[str]:
    """Add the shapes of an image, then the tags of classes that no shape has; return the types of the shapes."""
    sides = [_read_numbers(element.get(key, ""), 1, f"{name}: {key}", where)[0] for key in ("height", "width")]
    size = read_size(*sides, name, where)
    shapes = [child for child in element if child.tag in _OUTLINES + _OTHER_SHAPES]
    unknown = next((child.tag for child in element if child not in shapes and child.tag != "tag"), None)
    if unknown is not None:
        raise BadData(f"{name} has a shape of the unknown type {unknown!r}", _REMEDY, where=where)
    # Sorting keeps the order of shapes with the same z_order.
    shapes.sort(key=lambda shape: _read_numbers(shape.get("z_order", "0"), 1, f"{name}: z_order", where)[0])
    for layer, shape in enumerate(shapes):
        entry = f"{name}: {shape.tag} {layer + 1} ({shape.get('label')})"
        region = _build_region(shape, size, entry, where) if shape.tag in _OUTLINES else None
        image.add_object(_get_class_id(shape, data, entry, where), region, layer=layer, where=entry)
    for tag in element.iterfind("tag"):
        class_id = _get_class_id(tag, data, name, where)
        if class_id > 0 and class_id not in image.class_ids:
            image.add_object(class_id, None)
    return [shape.tag for shape in shapes]


def _get_class_id(element: ElementTree.Element, data: AnnotatedImages, entry: str, where: str) -> int:
    class_id = data.names.get(element.get("label") or "")
    if class_id is None:
        raise BadData(f"{entry} has the label {element.get('label')!r}, which the task does not list", _REMEDY,
                      where=where)
    return class_id


def _build_region(shape: ElementTree.Element, size: tuple | None, entry: str, where: str) -> dict[str, Any]:
    if shape.tag == "polygon":
        points = [_read_numbers(point, 2, entry, where) for point in (shape.get("points") or "").split(";")]
        return {"polygons": (np.array(points).ravel(),), "size": size}
    if shape.tag == "ellipse":
        x, y, radius_x, radius_y, angle = (
            _read_numbers(shape.get(key, default), 1, f"{entry}: {key}", where)[0]
            for key, default in (("cx", ""), ("cy", ""), ("rx", ""), ("ry", ""), ("rotation", "0")))
        return {"polygons": (draw_ellipse((x, y), (radius_x, radius_y), angle),), "size": size}
    return _build_mask_region(shape, size, entry, where)


def _build_mask_region(shape: ElementTree.Element, size: tuple | None, entry: str, where: str) -> dict[str, Any]:
    """Return the pixels of a mask: runs outside and inside, row by row of the box at (left, top)."""
    left, top, width, height = (int(_read_numbers(shape.get(key, ""), 1, f"{entry}: {key}", where)[0])
                                for key in ("left", "top", "width", "height"))
    runs = np.array(_read_numbers(shape.get("rle", ""), None, f"{entry}: rle", where)).astype(np.int64)
    image_size = size or (0, 0)
    is_inside = 0 <= top <= top + height <= image_size[0] and 0 <= left <= left + width <= image_size[1]
    if not is_inside or (runs < 0).any() or runs.sum() != width * height:
        raise BadData(f"{entry} has runs of {runs.sum()} pixels in a box of {width}x{height} at ({left}, {top}) of an "
                      f"image of {image_size[1]}x{image_size[0]} (width x height)", _REMEDY, where=where)
    bitmap = np.repeat(np.arange(runs.size) % 2 == 1, runs).reshape(height, width)
    return {"runs": place_bitmap(bitmap, top, left, image_size, where=f"{where}: {entry}"), "size": size}


def _read_numbers(text: str, count: int | None, name: str, where: str) -> list[float]:
    """Return the finite numbers of a text such as "1.5,2", `count` of them if it is given."""
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not np.isfinite(numbers).all() or max(map(abs, numbers)) > 1e12 or \
            (count is not None and len(numbers) != count):
        raise BadData(f"{name} has {text[:40]!r} in place of {count or 'some'} numbers", _REMEDY, where=where)
    return numbers
