"""Import masks whose colours a file names: CVAT's export "Segmentation mask 1.1" with labelmap.txt."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from stages.data.annotated_images import AnnotatedImages, build_listing, open_images
from stages.data.folders import require_folder
from stages.data.image_source import read_image_bytes
from stages.data.images import load_pixels, open_image
from stages.data.masks import LOSSLESS_FORMATS
from stages.data.records import LABELS_FROM_MASKS_NOTE, Listing
from stages.data.run_lengths import encode_runs
from stages.data.tables import read_nonblank_lines
from stages.errors import BadData, MissingInput

_LINE = re.compile(r"(?P<name>.+?):(?P<colour>\d{1,3},\d{1,3},\d{1,3})(:.*)?")
_LINE_REMEDY = "Write lines such as cat:128,0,0::"


def list_colour_masks(folder: Path, *, images: Path | None = None, draw_masks: bool = True) -> Listing:
    """List the masks in SegmentationClass, whose colours labelmap.txt names; their labels are read from the masks.

    The images are in `images`, else in JPEGImages. Raises MissingInput if there is no mask or no image, BadData for a
    colour that labelmap.txt does not name and for masks that are not lossless.
    """
    masks = require_folder(folder / "SegmentationClass", "Pass the folder of CVAT's export with SegmentationClass")
    default = folder / "JPEGImages" if (folder / "JPEGImages").is_dir() else None
    if images is None and default is None:
        raise MissingInput("the export has no images (JPEGImages)", "Pass the folder of the images with --images DIR",
                           where=str(folder))
    data = open_images(require_folder(images or default or folder))
    class_ids = _read_colours(folder / "labelmap.txt", data)
    files = sorted(path for path in masks.rglob("*.png") if path.is_file())
    for file in files:
        _add_mask(file, file.relative_to(masks).with_suffix("").as_posix(), data, class_ids)
    listing = build_listing(data, masks, draw_masks=draw_masks)
    return replace(listing, notes=(*listing.notes, LABELS_FROM_MASKS_NOTE), supervision="masks")


def _read_colours(file: Path, data: AnnotatedImages) -> dict[int, int]:
    """Return the class ids by colour, 65536 red + 256 green + blue, and add the classes in the order of the lines."""
    class_ids: dict[int, int] = {}
    for line, text in read_nonblank_lines(file):
        if text.startswith("#"):
            continue
        match, where = _LINE.fullmatch(text), f"{file}:{line}"
        values = [int(value) for value in match["colour"].split(",")] if match else [256]
        if match is None or max(values) > 255:
            raise BadData(f"the line {text[:40]!r} is not a name and a colour", _LINE_REMEDY, where=where)
        colour = values[0] << 16 | values[1] << 8 | values[2]
        if colour in class_ids:
            raise BadData(f"the colour {match['colour']} is that of another line", "Give every class a colour of its "
                          "own", where=where)
        class_ids[colour] = data.names.add(match["name"], f"the class {match['name']!r}", where)
    if not class_ids:
        raise MissingInput("the file names no colour", _LINE_REMEDY, where=str(file))
    return class_ids


def _add_mask(file: Path, name: str, data: AnnotatedImages, class_ids: dict[int, int]) -> None:
    """Add the image of a mask, with the pixels of each class of the mask as an object."""
    found = data.finder.find(name)
    prefix = "" if data.finder.prefix == "." else f"{data.finder.prefix}/"
    image = data.add(found.removeprefix(prefix) if found else f"{name}.jpg", str(file))
    colours = _read_colour_codes(file)
    for colour in np.unique(colours).tolist():
        if colour not in class_ids:
            raise BadData(f"the mask has the colour {colour >> 16},{colour >> 8 & 255},{colour & 255}, which "
                          "labelmap.txt does not name", "Add a line for it, such as "
                          f"cat:{colour >> 16},{colour >> 8 & 255},{colour & 255}::", where=str(file))
        if class_ids[colour] != 0:
            region = {"runs": encode_runs(colours == colour), "size": colours.shape}
            image.add_object(class_ids[colour], region, where=file.name)


def _read_colour_codes(file: Path) -> np.ndarray:
    """Return the colours (H, W) of a mask as whole numbers."""
    with open_image(read_image_bytes(file.parent, file.name), where=str(file)) as opened:
        if opened.format not in LOSSLESS_FORMATS:
            raise BadData(f"the mask is saved as {opened.format}, which changes colours", "Save it as PNG",
                          where=str(file))
        pixels = np.asarray(load_pixels(opened, str(file)).convert("RGB")).astype(np.int64)
    return pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
