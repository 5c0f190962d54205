"""Read an exported data set with the code of another tool, and save the masks: TOOL ROOT OUT.npz [PATH OF TORCH].

Runs in the environment .venv-formats, which has neither wsss nor its tests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Masks = dict[str, np.ndarray]
IGNORED = 255


def read_with_datumaro(root: Path, format_name: str) -> Masks:
    """Read with the importer of datumaro; class ids are the positions of the labels, after a background."""
    import datumaro
    data = datumaro.Dataset.import_from(str(root), format_name)
    names = [label.name for label in data.categories()[datumaro.AnnotationType.label].items]
    first = 0 if "background" in names else 1
    masks = {}
    for item in data:
        size = item.media.size if item.media is not None else (item.attributes["height"], item.attributes["width"])
        mask = np.zeros(size, np.uint8)
        # Boxes, which datumaro adds, are left out. Crowds come first, since the pixels of classes are not ignored.
        kinds = (datumaro.AnnotationType.mask, datumaro.AnnotationType.polygon)
        shapes = [annotation for annotation in item.annotations if annotation.type in kinds]
        for annotation in sorted(shapes, key=lambda shape: not shape.attributes.get("is_crowd", False)):
            is_ignored = annotation.attributes.get("is_crowd") or names[annotation.label] == "__ignore__"
            mask[_draw(annotation, size)] = IGNORED if is_ignored else annotation.label + first
        masks[item.id] = mask
    return masks


def _draw(annotation: Any, size: tuple[int, int]) -> np.ndarray:
    if hasattr(annotation, "image"):
        return np.asarray(annotation.image).astype(bool)
    from pycocotools import mask as coco_masks
    return coco_masks.decode(coco_masks.frPyObjects([list(annotation.points)], *size))[:, :, 0] > 0


def read_with_labelme(root: Path) -> Masks:
    """Read by shapes_to_label of labelme, from its file, because the package itself imports Qt and networks."""
    shapes = _load_labelme_shapes()
    labels = (root / "labels.txt").read_text(encoding="utf-8").splitlines()
    ids = {name: number - 1 for number, name in enumerate(labels)}
    masks = {}
    for path in root.rglob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        size = content["imageHeight"], content["imageWidth"]
        classes, _ = shapes.shapes_to_label(size, content["shapes"], ids)
        masks[path.relative_to(root).with_suffix("").as_posix()] = np.where(classes < 0, IGNORED, classes)
    return masks


def _load_labelme_shapes() -> ModuleType:
    folder = Path(next(folder for folder in sys.path if (Path(folder) / "labelme/utils/shape.py").is_file()))
    sys.modules["labelme"] = ModuleType("labelme")
    label_file = sys.modules["labelme._label_file"] = ModuleType("labelme._label_file")
    label_file.ShapeDict = dict  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("labelme_shape", folder / "labelme/utils/shape.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_with_ultralytics(root: Path) -> Masks:
    """Read by the check of labels and the rasteriser of ultralytics, which needs PyTorch on the path."""
    from ultralytics.data.utils import check_det_dataset, img2label_paths, polygon2mask, verify_image_label
    names = check_det_dataset(str(root / "data.yaml"), autodownload=False)["names"]
    folder = root / "images" / "train"
    masks = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        arguments = (str(path), img2label_paths([str(path)])[0], "", False, len(names), 0, 0, False)
        _, rows, size, segments, _, num_missing, _, _, num_corrupt, message = verify_image_label(arguments)
        assert not (num_missing or num_corrupt), message
        mask = np.zeros(size, np.uint8)
        for class_id, segment in zip(rows[:, 0], segments, strict=True):
            points = (segment.reshape(-1, 2) * (size[1], size[0])).reshape(-1)
            mask[polygon2mask(size, [points], 1, 1) > 0] = int(class_id) + 1
        masks[path.relative_to(folder).with_suffix("").as_posix()] = mask
    return masks


def read_with_label_studio(root: Path) -> Masks:
    """Read brush masks by the converter of Label Studio."""
    from label_studio_converter.brush import decode_rle
    config = (root / "label_config.xml").read_text(encoding="utf-8")
    masks = {}
    for task in json.loads((root / "tasks.json").read_text(encoding="utf-8")):
        for result in task["predictions"][0]["result"]:
            size = result["original_height"], result["original_width"]
            mask = masks.setdefault(task["data"]["id"], np.zeros(size, np.uint8))
            labels = [line.split('value="')[1].split('"')[0] for line in config.splitlines() if "<Label " in line]
            class_id = labels.index(result["value"]["brushlabels"][0]) + 1
            mask[decode_rle(result["value"]["rle"]).reshape(*size, 4)[:, :, 3] > 0] = class_id
    return masks


def read_with_datasets(root: Path) -> Masks:
    """Read by load_dataset("imagefolder"); the images must have the sizes of their masks."""
    import datasets
    rows = datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=str(root.parent / "cache"))["train"]
    masks = {row["id"]: np.asarray(row["mask"]) for row in rows}
    assert all(row["image"].size == row["mask"].size for row in rows)
    return masks


TOOLS: dict[str, Callable[[Path], Masks]] = {
    "labelme": read_with_labelme, "ultralytics": read_with_ultralytics, "label-studio": read_with_label_studio,
    "datasets": read_with_datasets}


def main(tool: str, root: str, output: str, torch_path: str) -> None:
    """Read and save."""
    sys.path.append(torch_path)
    # Neither settings in the home folder nor downloads.
    os.environ.update(YOLO_CONFIG_DIR=str(Path(output).parent), YOLO_OFFLINE="1", YOLO_AUTOINSTALL="false",
                      HF_HUB_OFFLINE="1", HF_HOME=str(Path(output).parent))
    name, _, format_name = tool.partition(":")
    masks = read_with_datumaro(Path(root), format_name) if name == "datumaro" else TOOLS[name](Path(root))
    np.savez(output, **{f"/{item_id}": mask for item_id, mask in masks.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
