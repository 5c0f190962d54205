"""Count the pixels of each class in a ground-truth mask, and compare them with the tags of its image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stages.data.mask_colours import format_colour
from stages.data.masks import IGNORE_8_BIT, UnknownMaskValues, get_ignore_index
from stages.errors import BadData
from stages.shards import Item

PIXELS_ATTRIBUTE = "mask_pixels"  # of an item: rows (class id or ignore index, pixels), int64 (K, 2)
_BAND_PIXELS = 1 << 20
_MAX_VALUES = 64  # of a mask with values that are no class; smoothed masks have thousands of colours


@dataclass(frozen=True)
class MaskCounts:
    """The tags of an image (class ids; None: unknown) and the pixels of each class id in its mask; others are ignored.

    With `is_unknown` the mask has values that are no class: then `pixels` counts its values, or colours as #RRGGBB.
    `palette_colours` are the colours, #RRGGBB, of the indices in use if the file has a palette.
    """

    id: str
    labels: tuple[int, ...] | None
    pixels: Mapping[int | str, int]
    ignored: int = 0
    is_unknown: bool = False
    palette_colours: Mapping[int, str] = field(default_factory=dict)

    @property
    def classes(self) -> set[int | str]:
        """The classes in the mask, without background."""
        return {value for value, count in self.pixels.items() if value and count}

    @property
    def untagged_classes(self) -> set[int | str]:
        """The classes in the mask that are no tags of the image."""
        return set() if self.labels is None else self.classes - set(self.labels)

    @property
    def is_empty(self) -> bool:
        """Whether the image has tags, but its mask only background: every object would count as background.

        A mask whose pixels are all ignored says nothing.
        """
        return bool(self.labels) and not self.classes and bool(self.pixels.get(0))

    @property
    def is_contradiction(self) -> bool:
        """Whether the mask has values that are no class or classes that are no tags, or no class in spite of tags.

        One tagged class of several may have no pixels: objects can be too small or too difficult to draw.
        """
        return self.is_unknown or bool(self.untagged_classes) or self.is_empty


def count_classes(mask: np.ndarray, num_classes: int, *,
                  has_background: bool = True) -> tuple[dict[int | str, int], int]:
    """Return (the pixels of each class id of a mask (H, W), the ignored pixels); without background, 0 is ignored."""
    counts = np.zeros(np.iinfo(mask.dtype).max + 1, np.int64)
    values = mask.ravel()
    for start in range(0, len(values), _BAND_PIXELS):
        # bincount takes eight bytes for each pixel that it counts.
        counts += np.bincount(values[start:start + _BAND_PIXELS], minlength=len(counts))
    pixels: dict[int | str, int] = {int(class_id): int(counts[class_id]) for class_id in np.flatnonzero(counts)}
    ignored = pixels.pop(get_ignore_index(num_classes), 0)
    return pixels, ignored if has_background else ignored + pixels.pop(0, 0)


def count_unknown_values(item_id: str, labels: tuple[int, ...] | None, error: UnknownMaskValues) -> MaskCounts:
    """Return the counts of a mask that was rejected because of values that are no class."""
    most_frequent = dict(sorted(error.pixels.items(), key=lambda pair: -pair[1])[:_MAX_VALUES])
    colours = list_palette_colours(error.palette, most_frequent, error.num_ignored)
    return MaskCounts(item_id, labels, most_frequent, error.num_ignored, True, colours)


def list_palette_colours(palette: np.ndarray | None, pixels: Mapping[int | str, int], ignored: int) -> dict[int, str]:
    """Return the colours, #RRGGBB, of the indices in use; {} without a `palette` (packed colours)."""
    if palette is None:
        return {}
    indices = [*(value for value in pixels if isinstance(value, int)), *([IGNORE_8_BIT] if ignored else [])]
    return {index: format_colour(int(palette[index])) for index in indices if index < len(palette)}


def encode_counts(pixels: Mapping[int | str, int], ignored: int, num_classes: int) -> np.ndarray:
    """Return the counts of a mask as the attribute of an item, int64 (K, 2)."""
    rows = sorted((int(class_id), count) for class_id, count in pixels.items())
    return np.array([*rows, *([(get_ignore_index(num_classes), ignored)] if ignored else [])], np.int64).reshape(-1, 2)


def read_counts(item: Item, num_classes: int) -> MaskCounts | None:
    """Return the counts that an index recorded of an image's mask, or None if it has no mask or no counts.

    Raises BadData if the counts are not those of class ids.
    """
    rows = item.attrs.get(PIXELS_ATTRIBUTE)
    if rows is None:
        return None
    rows, ignore_index = np.asarray(rows), get_ignore_index(num_classes)
    if rows.dtype.kind not in "iu" or rows.ndim != 2 or rows.shape[1] != 2 or not (
            np.isin(rows[:, 0], [*range(num_classes + 1), ignore_index]).all() and (rows[:, 1] >= 0).all()):
        raise BadData(f"its {PIXELS_ATTRIBUTE} are not pixels of class ids", "Run `wsss index` again", where=item.id)
    pixels: dict[int | str, int] = dict(rows.tolist())
    labels = item.datasets.get("labels")
    tags = None if labels is None else tuple(int(label) for label in labels)
    return MaskCounts(item.id, tags, pixels, pixels.pop(ignore_index, 0))


def select_comparable(images: Sequence[MaskCounts]) -> list[MaskCounts]:
    """Return the images with known tags; none if no image has a tag, for then nothing is said about their classes."""
    tagged = [image for image in images if image.labels is not None]
    return tagged if any(image.labels for image in tagged) else []


def format_contradictions(num_wrong: int, num_compared: int, example: str) -> str:
    """Return the sentence that says how many masks contradict their tags."""
    return f"The masks of {num_wrong} of {num_compared} images contradict their tags, for example {example}."


def describe_examples(contradictions: Sequence[MaskCounts], classes: Sequence[str], limit: int = 3) -> str:
    """Return up to `limit` examples, such as `IMG_3: tags cat; mask dog (31 % of the pixels)`."""
    return " | ".join(_describe_image(image, classes) for image in contradictions[:limit])


def _describe_image(image: MaskCounts, classes: Sequence[str]) -> str:
    tags = "unknown" if image.labels is None else ", ".join(classes[label] for label in image.labels) or "none"
    total = max(1, sum(image.pixels.values()) + image.ignored)
    values = sorted(image.classes, key=lambda value: (-image.pixels[value], str(value)))
    shares = [f"{_name_value(value, classes)} ({format_share(image.pixels[value], total)} of the pixels)"
              for value in values[:4]] + (["..."] if len(values) > 4 else [])
    ignored = f"255 ({format_share(image.ignored, total)} of the pixels)" if image.ignored else ""
    content = ", ".join(shares) or f"no class{f', but {ignored}' if ignored else ''}"
    return f"{image.id}: tags {tags}; mask {content}"


def _name_value(value: int | str, classes: Sequence[str]) -> str:
    if isinstance(value, str):
        return value
    return classes[value] if value < len(classes) else f"value {value}"


def format_share(count: int, total: int) -> str:
    """Return a share of pixels in percent, such as `31 %`."""
    percentage = 100 * count / total
    return f"{percentage:.0f} %" if percentage >= 1 else "less than 1 %"
