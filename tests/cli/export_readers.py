"""Read exported data sets back as masks, with plain readers and the libraries that wsss already needs."""

from __future__ import annotations

import json
import posixpath
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

Masks = dict[str, np.ndarray]


def fill(points: Sequence[Sequence[float]], size: tuple[int, int]) -> np.ndarray:
    """Rasterise a polygon with its outline, as labelme does."""
    picture = Image.new("L", size[::-1])
    ImageDraw.Draw(picture).polygon([tuple(point) for point in points], fill=1, outline=1)
    return np.asarray(picture) > 0


def read_pngs(folder: Path) -> Masks:
    """Read PNG files of ids below a folder."""
    return {path.relative_to(folder).with_suffix("").as_posix(): np.asarray(Image.open(path))
            for path in folder.rglob("*.png")}


def read_coco(root: Path, classes: Sequence[str], split: str = "train") -> Masks:
    """Read COCO annotations by pycocotools; crowds become 255."""
    coco = COCO(str(root / "annotations" / f"instances_{split}.json"))
    names = {category["id"]: category["name"] for category in coco.loadCats(coco.getCatIds())}
    masks = {}
    for image in coco.loadImgs(coco.getImgIds()):
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            region = coco.annToMask(annotation) > 0
            assert region.sum() == annotation["area"]
            mask[region] = 255 if annotation["iscrowd"] else classes.index(names[annotation["category_id"]])
        masks[posixpath.splitext(image["file_name"])[0]] = mask
    return masks


def read_yolo(root: Path, classes: Sequence[str], size: tuple[int, int], split: str = "train") -> Masks:
    """Read YOLO labels; the names of data.yaml must be those of the classes."""
    lines = (root / "data.yaml").read_text(encoding="utf-8").split("names:\n")[1].splitlines()
    assert [json.loads(line.split(": ", 1)[1]) for line in lines] == list(classes[1:])
    masks = {}
    folder = root / "labels" / split
    for path in folder.rglob("*.txt"):
        mask = np.zeros(size, np.uint8)
        for line in path.read_text().splitlines():
            number, *values = line.split()
            points = np.array(values, float).reshape(-1, 2)
            assert len(points) >= 3 and points.min() >= 0 and points.max() <= 1
            mask[fill((points * size[::-1]).tolist(), size)] = int(number) + 1
        masks[path.relative_to(folder).with_suffix("").as_posix()] = mask
    return masks


def read_labelme(root: Path) -> Masks:
    """Read LabelMe files; each must name an image of its size."""
    labels = (root / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert labels[:2] == ["__ignore__", "_background_"]
    masks = {}
    for path in root.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        size = content["imageHeight"], content["imageWidth"]
        with Image.open(path.parent / content["imagePath"]) as image:
            assert image.size == size[::-1]
        mask = np.zeros(size, np.uint8)
        for shape in content["shapes"]:
            assert shape["shape_type"] == "polygon"
            number = labels.index(shape["label"])
            mask[fill(shape["points"], size)] = number - 1 if number else 255
        masks[path.relative_to(root).with_suffix("").as_posix()] = mask
    return masks


def read_cvat(root: Path, classes: Sequence[str]) -> Masks:
    """Read CVAT's XML with polygons and masks; all labels must be declared, with the colours of VOC."""
    tree = ElementTree.parse(root / "annotations.xml")
    declared = {label.findtext("name"): label.findtext("color") for label in tree.iter("label")}
    assert list(declared)[:len(classes) - 1] == list(classes[1:])
    assert declared[classes[1]] == "#800000"
    masks = {}
    for image in tree.iter("image"):
        size = int(image.attrib["height"]), int(image.attrib["width"])
        mask = np.zeros(size, np.uint8)
        for shape in image:
            assert shape.attrib["label"] in declared
            label = shape.attrib["label"]
            mask[_draw_cvat(shape, size)] = classes.index(label) if label in classes else 255
        masks[posixpath.splitext(image.attrib["name"])[0]] = mask
    return masks


def _draw_cvat(shape: ElementTree.Element, size: tuple[int, int]) -> np.ndarray:
    if shape.tag == "polygon":
        return fill([[float(value) for value in point.split(",")] for point in shape.attrib["points"].split(";")], size)
    left, top, width, height = (int(shape.attrib[name]) for name in ("left", "top", "width", "height"))
    pixels: list[bool] = []
    for number, length in enumerate(shape.attrib["rle"].split(",")):
        pixels += [number % 2 == 1] * int(length)
    mask = np.zeros(size, bool)
    mask[top:top + height, left:left + width] = np.array(pixels).reshape(height, width)
    return mask


def read_labelstudio(root: Path, classes: Sequence[str]) -> Masks:
    """Read Label Studio's predictions; the labels must be in the labelling configuration."""
    config = ElementTree.parse(root / "label_config.xml")
    labels = [label.attrib["value"] for label in config.iter("Label")]
    assert labels[:len(classes) - 1] == list(classes[1:])
    masks = {}
    for task in json.loads((root / "tasks.json").read_text(encoding="utf-8")):
        results = task["predictions"][0]["result"]
        mask = None
        for result in results:
            size = result["original_height"], result["original_width"]
            mask = np.zeros(size, np.uint8) if mask is None else mask
            value = result["value"]
            label, = value[result["type"]]
            assert label in labels
            mask[_draw_labelstudio(value, size)] = classes.index(label) if label in classes else 255
        if mask is not None:
            masks[task["data"]["id"]] = mask
    return masks


def _draw_labelstudio(value: dict, size: tuple[int, int]) -> np.ndarray:
    if "points" in value:
        return fill((np.array(value["points"]) * (size[1] / 100, size[0] / 100)).tolist(), size)
    return unpack_brush(bytes(value["rle"])).reshape(*size, 4)[:, :, 3] > 0


def unpack_brush(data: bytes) -> np.ndarray:
    """Decode the bit stream of Label Studio's brush: a header, then runs of one value or of different ones."""
    read = _read_bits("".join(f"{byte:08b}" for byte in data))
    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run = read(1)
        length = read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    return np.array(values, np.uint8)


def _read_bits(bits: str) -> Callable[[int], int]:
    position = 0

    def read(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count:position], 2)
    return read


def iterate_ious(expected: Masks, found: Masks, *, ignores: bool) -> Iterator[float]:
    """Yield the IoU of each class in each mask; `ignores` also compares ignored pixels."""
    for name, truth in expected.items():
        for class_id in np.unique(truth):
            if class_id and (ignores or class_id != 255):
                first, second = truth == class_id, found[name] == class_id
                yield (first & second).sum() / (first | second).sum()
