"""What `init` has to know about the photographs: how many there are, of how many classes, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from stages.data.image_source import read_image_bytes
from stages.data.images import open_image
from stages.data.layout_folder import list_folder
from stages.data.layout_table import list_table
from stages.data.records import Listing
from stages.errors import BadData, WsssError

_NUM_SAMPLES = 64
_MAX_PIXELS = 200_000_000  # the default of `index`


@dataclass(frozen=True)
class Photographs:
    """The counts of a set of photographs, the median of their pixels, and sentences for the user."""

    num_images: int
    num_classes: int
    num_pixels: float
    notes: tuple[str, ...]


def inspect_photographs(images: Path, tags: Path | None, masks: Path | None) -> Photographs:
    """Read the table of tags, or the folders that are classes, and the sizes of some photographs.

    Raises MissingInput and BadData as `wsss index` does, and BadData if no photograph has a tag.
    """
    listing = list_folder(images) if tags is None else list_table(tags, images=images, masks=masks,
                                                                  has_mask_values=True)
    if len(listing.classes) < 2:
        raise BadData("no photograph has a tag, so there is nothing to learn",
                      "Give a table with --tags, or sort the photographs into one sub-folder per class",
                      where=str(tags or images))
    return Photographs(len(listing.records), len(listing.classes) - 1, _measure_pixels(listing), listing.notes)


def _measure_pixels(listing: Listing) -> float:
    """Return the median number of pixels of evenly chosen photographs; those that can't be read are left to `index`."""
    step = max(1, len(listing.records) // _NUM_SAMPLES)
    sizes = []
    for record in listing.records[::step]:
        try:
            with open_image(read_image_bytes(listing.root, record.path), where=record.path,
                            max_pixels=_MAX_PIXELS) as image:
                sizes.append(image.width * image.height)
        except (WsssError, OSError):
            continue
    return float(median(sizes or [0]))
