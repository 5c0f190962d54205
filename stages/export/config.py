"""Settings of `wsss export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stages.settings import setting

_TOLERANCE = "Distance by which a polygon may be simplified; halved where its IoU with the mask would fall below 0.995."


def _images_setting(default: str) -> Any:
    return setting(default, "Copy the images into the layout, link to them, or leave them out.",
                   choices=("copy", "link", "none"))


def _ignored_setting(default: str, keep: str) -> Any:
    return setting(default, f"Ignored pixels: keep them ({keep}), write them as background, or reject such masks.",
                   choices=("keep", "background", "reject"))


def _tolerance_setting() -> Any:
    return setting(0.5, _TOLERANCE, unit="pixels", low=0, high=10)


def _components_setting() -> Any:
    return setting(False, "Write one annotation per connected component instead of one per class and image.")


def _split_setting() -> Any:
    return setting("train", "Part of the data set that the images are, in the names of files and folders.")


@dataclass(frozen=True)
class PngConfig:
    """Settings of `export png`."""

    palette: bool = setting(True, "Colour the class ids with the VOC palette; otherwise write them as grey values.")
    ignored: str = _ignored_setting("keep", "as 255, or 65535 in 16 bits")


@dataclass(frozen=True)
class VocConfig:
    """Settings of `export voc`."""

    split: str = setting("train", "Name of the list of images that is written.")
    submission: bool = setting(False, "Write the layout of the official VOC test server instead.")
    competition: str = setting("comp6", "Competition of a submission (comp5: trained on VOC only; comp6: on any data).",
                               choices=("comp5", "comp6"))
    images: str = _images_setting("none")
    ignored: str = _ignored_setting("keep", "as 255, or 65535 in 16 bits")


@dataclass(frozen=True)
class CocoConfig:
    """Settings of `export coco`."""

    split: str = _split_setting()
    segmentation: str = setting("rle", "Write run lengths, which are exact, or polygons.", choices=("rle", "polygon"))
    components: bool = _components_setting()
    tolerance: float = _tolerance_setting()
    images: str = _images_setting("none")
    ignored: str = _ignored_setting("keep", "as crowd annotations")


@dataclass(frozen=True)
class YoloConfig:
    """Settings of `export yolo`."""

    split: str = setting("train", "Part of the data set that the images are.", choices=("train", "val", "test"))
    tolerance: float = _tolerance_setting()
    images: str = _images_setting("copy")
    ignored: str = setting("background", "Ignored pixels: write them as background, or reject such masks.",
                           choices=("background", "reject"))


@dataclass(frozen=True)
class LabelmeConfig:
    """Settings of `export labelme`."""

    tolerance: float = _tolerance_setting()
    images: str = _images_setting("copy")
    ignored: str = _ignored_setting("keep", "with the label __ignore__")


@dataclass(frozen=True)
class CvatConfig:
    """Settings of `export cvat`."""

    shapes: str = setting("polygon", "Write polygons, or masks, which are exact.", choices=("polygon", "mask"))
    components: bool = setting(False, "Write one mask per connected component; polygons always are one each.")
    tolerance: float = _tolerance_setting()
    images: str = _images_setting("none")
    ignored: str = _ignored_setting("background", "with the label __ignore__")


@dataclass(frozen=True)
class LabelStudioConfig:
    """Settings of `export labelstudio`."""

    shapes: str = setting("brush", "Write brush masks, which are exact, or polygons.", choices=("brush", "polygon"))
    components: bool = setting(False, "Write one brush mask per connected component; polygons always are one each.")
    tolerance: float = _tolerance_setting()
    url_prefix: str = setting("/data/local-files/?d=", "Text before the path of an image in tasks.json.",
                              source="Label Studio's local file storage")
    images: str = _images_setting("none")
    ignored: str = _ignored_setting("background", "with the label __ignore__")


@dataclass(frozen=True)
class MmsegConfig:
    """Settings of `export mmseg`."""

    split: str = _split_setting()
    images: str = _images_setting("copy")
    ignored: str = _ignored_setting("keep", "as 255")


@dataclass(frozen=True)
class HfConfig:
    """Settings of `export hf`."""

    split: str = _split_setting()
    images: str = setting("copy", "Copy the images into the layout, or link to them.", choices=("copy", "link"))
    ignored: str = _ignored_setting("keep", "as 255, or 65535 in 16 bits")
