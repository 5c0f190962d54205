"""Import a dataset that FiftyOne exported in its own format (fo.types.FiftyOneDataset)."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.annotated_images import AnnotatedImage, AnnotatedImages, build_listing, open_images
from stages.data.annotation_classes import add_class_names
from stages.data.annotation_json import decode_base64, get_list, read_json, read_numbers, read_points, read_size
from stages.data.folders import require_folder
from stages.data.image_source import read_image_bytes
from stages.data.images import MAX_PIXELS, load_pixels, open_image
from stages.data.npy_arrays import decode_npy_numbers
from stages.data.records import Listing
from stages.data.run_lengths import encode_runs, place_bitmap
from stages.errors import BadData, UsageError

_REMEDY = "Export the dataset with dataset_type=fo.types.FiftyOneDataset"
# The list of labels in a field, by the type of the field; the field itself is the label of other types.
_LISTS = {"Detections": "detections", "Polylines": "polylines", "Classifications": "classifications",
          "Keypoints": "keypoints"}
_LABEL_TYPES = ("Detection", "Polyline", "Classification", "Keypoint", "Segmentation")


def list_fiftyone(folder: Path, *, field: str = "ground_truth", images: Path | None = None,
                  class_names: Path | None = None, draw_masks: bool = True) -> Listing:
    """List the samples of an exported dataset (samples.json), with the labels of one `field`.

    Classes are the labels, sorted, or those of `class_names`. Instance masks, closed polylines and segmentations make
    masks; boxes, key points and classifications make tags only. A sample without the field has unknown tags.
    Raises MissingInput for a missing file and if no image exists, UsageError if no sample has the field, BadData for
    anything else.
    """
    folder = require_folder(folder)
    file = folder / "samples.json"
    samples, targets = _read_samples(file), _read_mask_targets(folder / "metadata.json", field)
    _check_field(samples, field, str(file))
    labels = [None if sample.get(field) is None else _list_labels(sample[field], f"samples[{position}].{field}", file)
              for position, sample in enumerate(samples)]
    names = {name for sample_labels in labels for label in sample_labels or () for name in _list_names(label, targets)}
    data = open_images(require_folder(images) if images else folder)
    add_class_names(data.names, class_names, names, file)
    for position, (sample, sample_labels) in enumerate(zip(samples, labels, strict=True)):
        image = data.add(_find_image(sample, position, data, str(file)), str(file))
        image.has_labels = sample_labels is not None
        for number, label in enumerate(sample_labels or ()):
            _add_label(label, number, sample, image, data, targets, file)
    return build_listing(data, file, draw_masks=draw_masks)


def _read_samples(file: Path) -> list[dict[str, Any]]:
    content = read_json(file, _REMEDY)
    if not isinstance(content, dict) or "samples" not in content:
        raise BadData("the file has no samples", _REMEDY, where=str(file))
    return get_list(content, "samples", "", str(file))


def _read_mask_targets(file: Path, field: str) -> dict[int, str]:
    """Return the names of the values of segmentation masks; {} if the dataset names none."""
    content = read_json(file, _REMEDY) if file.is_file() else {}
    if not isinstance(content, dict):
        raise BadData("the file is not an object", _REMEDY, where=str(file))
    if content.get("media_type", "image") != "image":
        raise BadData(f"the dataset has media of the type {content['media_type']!r}", "Export a dataset of images",
                      where=str(file))
    by_field = content.get("mask_targets") or {}
    targets = (by_field.get(field) if isinstance(by_field, dict) else None) or content.get("default_mask_targets") or {}
    if not isinstance(targets, dict) or not all(str(value).isdecimal() and isinstance(name, str)
                                                for value, name in targets.items()):
        raise BadData(f"the mask targets are {str(targets)[:40]}, which do not name whole numbers", _REMEDY,
                      where=str(file))
    return {int(value): name for value, name in targets.items()}


def _check_field(samples: list[dict[str, Any]], field: str, where: str) -> None:
    if any(sample.get(field) is not None for sample in samples):
        return
    fields = sorted({name for sample in samples for name, value in sample.items()
                     if isinstance(value, dict) and value.get("_cls") in (*_LISTS, *_LABEL_TYPES)})
    remedy = f"Choose one of its fields of labels, such as --field {fields[0]}" if fields else _REMEDY
    raise UsageError(f"no sample has the field {field!r} (fields of labels: {', '.join(fields) or 'none'})", remedy,
                     where=where)


def _list_labels(value: Any, name: str, file: Path) -> list[dict[str, Any]]:
    kind = value.get("_cls") if isinstance(value, dict) else None
    if kind in _LISTS:
        return [{"_cls": kind[:-1], **label} for label in get_list(value, _LISTS[kind], f"{name}.", str(file))]
    if kind not in _LABEL_TYPES:
        raise BadData(f"{name} has the type {kind!r}",
                      f"Choose a field of one of: {', '.join((*_LISTS, *_LABEL_TYPES))}", where=str(file))
    return [value]


def _list_names(label: dict[str, Any], targets: dict[int, str]) -> list[str]:
    if label["_cls"] == "Segmentation":
        return [name for value, name in targets.items() if value]
    return [label["label"]] if isinstance(label.get("label"), str) else []


def _find_image(sample: dict[str, Any], position: int, data: AnnotatedImages, where: str) -> str:
    name = sample.get("filepath")
    if not isinstance(name, str) or not name.strip():
        raise BadData(f"samples[{position}] has {name!r} as filepath", _REMEDY, where=where)
    name = name.replace("\\", "/")
    return name if data.has_file(name) else data.find_end(name) or data.find_path(name, where)


def _add_label(label: dict[str, Any], number: int, sample: dict[str, Any], image: AnnotatedImage,
               data: AnnotatedImages, targets: dict[int, str], file: Path) -> None:
    """Add a label to its image, as an object of the layer `number`."""
    where, entry = str(file), f"{image.path}: {label['_cls']} {number + 1} ({label.get('label')})"
    metadata = sample.get("metadata") if isinstance(sample.get("metadata"), dict) else {}
    size = read_size(metadata.get("height"), metadata.get("width"), entry, where)
    if label["_cls"] == "Segmentation":
        for name, region in _split_segmentation(label, targets, entry, file):
            image.add_object(_get_class_id(name, data, entry, where), region, layer=number, where=entry)
        return
    region = None
    if label["_cls"] == "Polyline" and (label.get("closed") or label.get("filled")):
        polygons = label.get("points")
        if not isinstance(polygons, list) or not polygons:
            raise BadData(f"{entry} has no points", "Correct the polyline, or remove it", where=where)
        region = {"polygons": tuple(read_points(points, f"{entry}.points", where).ravel() for points in polygons),
                  "is_relative": True, "size": size}
    elif label["_cls"] == "Detection" and (label.get("mask") is not None or label.get("mask_path")):
        region = _build_instance(label, size, entry, file)
    image.add_object(_get_class_id(label.get("label"), data, entry, where), region, layer=number, where=entry)


def _get_class_id(name: Any, data: AnnotatedImages, entry: str, where: str) -> int:
    class_id = data.names.get(name) if isinstance(name, str) and name.strip() else None
    if class_id is None:
        raise BadData(f"{entry} has the label {name!r}, which is not a class", "Correct the label, or --class-names",
                      where=where)
    return class_id


def _build_instance(label: dict[str, Any], size: tuple[int, int] | None, entry: str, file: Path) -> dict[str, Any]:
    """Return the pixels of an instance mask, which covers the box of the detection at the image's resolution."""
    if size is None:
        raise BadData(f"{entry} has a mask, but the sample has no metadata with width and height",
                      "Run dataset.compute_metadata() and export again", where=str(file))
    x, y, width, height = read_numbers(label.get("bounding_box"), 4, f"{entry}.bounding_box", str(file))
    left, top, right, bottom = (round(value) for value in (x * size[1], y * size[0], (x + width) * size[1],
                                                           (y + height) * size[0]))
    mask = _read_mask(label, entry, file) > 0
    if abs(mask.shape[0] - (bottom - top)) > 1 or abs(mask.shape[1] - (right - left)) > 1:
        raise BadData(f"{entry} has a mask of {mask.shape[0]}x{mask.shape[1]} pixels for a box of {bottom - top}x"
                      f"{right - left}", "Export masks at the resolution of the image", where=str(file))
    return {"runs": place_bitmap(mask, top, left, size, where=f"{file}: {entry}"), "size": size}


def _split_segmentation(label: dict[str, Any], targets: dict[int, str], entry: str,
                        file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return (class name, pixels) of each value of a segmentation mask but 0."""
    mask = _read_mask(label, entry, file)
    unnamed = sorted(set(np.unique(mask).tolist()) - {0, *targets})
    if unnamed:
        raise BadData(f"{entry} has the value {unnamed[0]}, which mask_targets does not name",
                      "Set dataset.default_mask_targets and export again", where=str(file))
    return [(targets[value], {"runs": encode_runs(mask == value), "size": mask.shape})
            for value in np.unique(mask).tolist() if value]


def _read_mask(label: dict[str, Any], entry: str, file: Path) -> np.ndarray:
    """Return a mask (h, w) of a label: a file below the folder of the export, or a compressed array."""
    if label.get("mask") is None:
        path = str(label.get("mask_path")).replace("\\", "/")
        with open_image(read_image_bytes(file.parent, path), where=f"{file}: {entry}", max_pixels=MAX_PIXELS) as image:
            mask = np.asarray(load_pixels(image, path))
    else:
        mask = _decode_array(label["mask"], entry, str(file))
    if mask.ndim != 2 or mask.dtype.kind not in "bui":
        raise BadData(f"{entry} has a mask of the shape {mask.shape} and the type {mask.dtype}",
                      "Export masks of whole numbers with one channel", where=str(file))
    return mask


def _decode_array(value: Any, entry: str, where: str) -> np.ndarray:
    """Return an array as FiftyOne stores it: numpy's format, compressed with zlib, in base64."""
    binary = value.get("$binary", value) if isinstance(value, dict) else value
    text = binary.get("base64") if isinstance(binary, dict) else binary
    data = decode_base64(text, f"{entry}.mask", where)
    try:
        content = zlib.decompressobj().decompress(data, 8 * MAX_PIXELS)
    except (zlib.error, MemoryError) as error:
        raise BadData(f"{entry} has a mask that is not a compressed array ({type(error).__name__})", _REMEDY,
                      where=where) from None
    return decode_npy_numbers(content, f"{where}: {entry}")
