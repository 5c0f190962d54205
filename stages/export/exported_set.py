"""What a format writes: images with their masks, class names with their colours, and what to tell about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from stages.data.masks import IGNORE_8_BIT

IGNORED_LABEL = "__ignore__"  # as in labelme
IGNORED_COLOUR = (224, 224, 192)  # that of the id 255 in the VOC palette
MIN_IOU = 0.99  # below which polygons are worth a warning
# A file to write: its name below the output folder, and its contents, in chunks if they can be large.
ExportedFile = tuple[str, bytes | Iterable[bytes]]


@dataclass(frozen=True)
class ExportedImage:
    """One image, whose properties are read when they are needed."""

    id: str
    get_file_name: Callable[[str], str]
    read_size: Callable[[str], tuple[int, int]]
    read_pixels: Callable[[str], np.ndarray]

    @property
    def file_name(self) -> str:
        """The name of its file in the folder of images, or below the root if images are not copied."""
        return self.get_file_name(self.id)

    @property
    def height(self) -> int:
        return self.read_size(self.id)[0]

    @property
    def width(self) -> int:
        return self.read_size(self.id)[1]

    def read_mask(self) -> np.ndarray:
        """Return the class ids (H, W) 0..C, and the ignore index where ignored pixels are kept."""
        return self.read_pixels(self.id)


@dataclass
class Statistics:
    """What a user must know about the export: ignored pixels, and how well polygons reproduce the masks."""

    num_ignored: int = 0
    num_pixels: int = 0
    num_images_with_ignored: int = 0
    num_polygons: int = 0
    sum_iou: float = 0.0
    worst: tuple[float, str, str] = (1.0, "", "")
    notes: list[str] = field(default_factory=list)

    def add_ignored(self, num_ignored: int, num_pixels: int) -> None:
        """Add the ignored pixels of one image."""
        self.num_ignored += num_ignored
        self.num_pixels += num_pixels
        self.num_images_with_ignored += num_ignored > 0

    def add_iou(self, iou: float, class_name: str, item_id: str) -> None:
        """Add the IoU of the polygons of one class in one image with its mask."""
        self.num_polygons += 1
        self.sum_iou += iou
        if not self.worst[1] or iou < self.worst[0]:
            self.worst = (iou, class_name, item_id)

    def describe_polygons(self) -> str:
        """Return one sentence on the IoU of all polygons; empty if there are none."""
        if not self.num_polygons:
            return ""
        iou, class_name, item_id = self.worst
        mean = self.sum_iou / self.num_polygons
        text = (f"The polygons reproduce the masks with a mean IoU of {mean:.4f}; the worst is {iou:.4f} ({class_name} "
                f"in {item_id}).")
        return text + " Use a smaller --tolerance." if iou < MIN_IOU else text


@dataclass(frozen=True)
class ExportedSet:
    """The images, in order and readable again and again, and the classes: position 0 is the background, or ""."""

    images: Iterable[ExportedImage]
    classes: tuple[str, ...]
    ignore_index: int
    statistics: Statistics

    @property
    def has_background(self) -> bool:
        return bool(self.classes[0])

    def list_present(self, mask: np.ndarray) -> list[int]:
        """Return the sorted class ids 1..C in a mask."""
        return [int(value) for value in np.unique(mask) if 0 < value < len(self.classes)]


def compute_class_colours(num_classes: int) -> list[tuple[int, int, int]]:
    """Return the colours of classes 0..C: the VOC palette, continued for ids above 255 by the same rule."""
    return [(_spread_bits(class_id, 0), _spread_bits(class_id, 1), _spread_bits(class_id, 2))
            for class_id in range(num_classes + 1)]


def _spread_bits(class_id: int, channel: int) -> int:
    return sum((class_id >> (3 * step + channel) & 1) << (7 - step) for step in range(8))


def format_hex(colour: tuple[int, int, int]) -> str:
    """Return a colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def build_label_map(exported: ExportedSet, *, keeps_ignored: bool) -> bytes | None:
    """Return the labelmap.txt of CVAT, NAME:R,G,B:: in the order of the ids; None if a name contains a colon.

    With `keeps_ignored` the last line has the colour of the id 255. Without a background the first line is still that
    of the id 0, since CVAT and datumaro would add it and count the others from there.
    """
    names = [name or "background" for name in exported.classes]
    if any(":" in name for name in names):
        return None
    colours = compute_class_colours(len(names) - 1)
    if keeps_ignored and exported.ignore_index == IGNORE_8_BIT:
        names.append(IGNORED_LABEL)
        colours.append(IGNORED_COLOUR)
    lines = ["# label:color_rgb:parts:actions"]
    lines += [f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(names, colours, strict=True)]
    return "".join(f"{line}\n" for line in lines).encode()
