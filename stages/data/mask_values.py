"""Read what the values of masks mean: `--mask-values 255=cat`, or a file with a line per value or colour."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from stages.data.mask_colours import format_colour
from stages.data.name_forms import fold_name
from stages.data.tables import read_nonblank_lines
from stages.data.tag_parsing import BACKGROUND_NAMES, IGNORED_NAMES
from stages.errors import BadData, UsageError, WsssError

IGNORED = 65535  # what a value is mapped to if its pixels are ignored, whatever the number of classes
MAX_VALUE = 65535
_IGNORE_WORDS = ("ignore", "ignored", *IGNORED_NAMES)
_VALUE, _COLOUR = re.compile(r"\d{1,5}"), re.compile(r"#[0-9a-fA-F]{6}")
_CVAT_LINE = re.compile(r"(?P<name>.+?):(?P<red>\d{1,4}),(?P<green>\d{1,4}),(?P<blue>\d{1,4})(:.*)?")
_EXAMPLE = "Write for example 255=cat or #FF0000=cat"


@dataclass(frozen=True)
class MaskValues:
    """The class ids of the values (`ids`), or of the packed colours (`colours`), of masks; IGNORED for no class.

    Values that are not listed keep their meaning. Of colours every one that occurs must be listed; black is background.
    """

    ids: Mapping[int, int] = field(default_factory=dict)
    colours: Mapping[int, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.ids or self.colours)

    @property
    def text(self) -> str:
        """The mapping as text, the same for equal mappings: `1=2,255=ignore` or `#FF0000=1`."""
        pairs = [(str(value), class_id) for value, class_id in sorted(self.ids.items())]
        pairs += [(format_colour(colour), class_id) for colour, class_id in sorted(self.colours.items())]
        return ",".join(f"{value}={'ignore' if class_id == IGNORED else class_id}" for value, class_id in pairs)

    def map_ids(self, values: np.ndarray) -> np.ndarray:
        """Return the class ids (H, W) uint16 of the values of a mask of 1, 8 or 16 bits."""
        is_wide = values.dtype.itemsize > 1
        table = np.arange(MAX_VALUE + 1 if is_wide else 256, dtype=np.uint16)
        if not is_wide:
            table[255] = IGNORED
        for value, class_id in self.ids.items():
            if value < len(table):
                table[value] = class_id
        return table[values.astype(np.uint8) if values.dtype == bool else values]


def parse_recorded_values(text: str) -> MaskValues:
    """Return the mapping of a `text` that `MaskValues.text` wrote, as an index records it."""
    pairs = [pair.split("=") for pair in text.split(",") if pair]
    return _build_mapping({value: IGNORED if target == "ignore" else int(target) for value, target in pairs})


def read_mask_values(text: str, classes: Sequence[str]) -> MaskValues:
    """Return the mapping of `text`: pairs FROM=TO separated by commas, or a file with one pair per line.

    FROM is a value or a colour #RRGGBB; TO a class name, `background`, `ignore` or a class id. A line of CVAT's
    labelmap.txt, `name:r,g,b::`, is a pair too. Raises UsageError (BadData with the line of a file) for anything else.
    """
    targets: dict[str, int] = {}
    for where, value, name in _split_pairs(text):
        error_class = UsageError if where == "--mask-values" else BadData
        if not (_COLOUR.fullmatch(value) or (_VALUE.fullmatch(value) and int(value) <= MAX_VALUE)):
            raise error_class(f"{value!r} is neither a value from 0 to {MAX_VALUE} nor a colour #RRGGBB", _EXAMPLE,
                              where=where)
        value = value.upper() if value[0] == "#" else str(int(value))
        class_id = _find_target(name, classes, where, error_class)
        if targets.setdefault(value, class_id) != class_id:
            raise error_class(f"{value} is given twice, for different classes", "Keep one of them", where=where)
    if len({value[0] == "#" for value in targets}) > 1:
        raise UsageError("values and colours are mixed", "Give either the values of the masks or their colours",
                         where="--mask-values")
    return _build_mapping(targets)


def _build_mapping(targets: Mapping[str, int]) -> MaskValues:
    colours = {int(value[1:], 16): class_id for value, class_id in targets.items() if value[0] == "#"}
    # Pixels without an object are black in every palette that colours objects.
    colours = {0: 0, **colours} if colours else {}
    return MaskValues({int(value): class_id for value, class_id in targets.items() if value[0] != "#"}, colours)


def _split_pairs(text: str) -> list[tuple[str, str, str]]:
    """Return (where, FROM, TO) of every pair of the command line or of a file."""
    if not text.strip():
        return []
    if "=" in text and not _exists(text):
        pairs = [("--mask-values", *piece.partition("=")) for piece in text.split(",") if piece.strip()]
        return [(where, _check_pair(value, sign, name, where), name.strip()) for where, value, sign, name in pairs]
    if not _exists(text):
        raise UsageError(f"{text!r} is neither FROM=TO nor a file", _EXAMPLE, where="--mask-values")
    pairs_of_file = []
    for line, content in read_nonblank_lines(Path(text)):
        where = f"{text}:{line}"
        cvat = _CVAT_LINE.fullmatch(content)
        if cvat and not content.startswith("#"):
            pairs_of_file.append((where, _format_cvat_colour(cvat, where), cvat["name"].strip()))
        elif not content.startswith("#") or re.match(r"#[0-9a-fA-F]{6}\s*=", content):
            value, sign, name = content.partition("=")
            pairs_of_file.append((where, _check_pair(value, sign, name, where), name.strip()))
    if not pairs_of_file:
        raise BadData("the file has no line FROM=TO", _EXAMPLE, where=text)
    return pairs_of_file


def _exists(text: str) -> bool:
    """Return whether a text is the path of a file or folder; a long list of pairs is no valid path."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False


def _check_pair(value: str, sign: str, name: str, where: str) -> str:
    if not (value.strip() and sign and name.strip()):
        error_class = UsageError if where == "--mask-values" else BadData
        raise error_class(f"{(value + sign + name).strip()!r} is not FROM=TO", _EXAMPLE, where=where)
    return value.strip()


def _format_cvat_colour(match: re.Match[str], where: str) -> str:
    channels = [int(match[name]) for name in ("red", "green", "blue")]
    if max(channels) > 255:
        raise BadData(f"the colour {','.join(map(str, channels))} has a value above 255", "Correct the colour",
                      where=where)
    return "#" + "".join(f"{channel:02X}" for channel in channels)


def _find_target(name: str, classes: Sequence[str], where: str, error_class: type[WsssError]) -> int:
    """Return the class id of a name, IGNORED or a number. Raises an error of `error_class` for other names."""
    if name in classes[1:]:
        return list(classes).index(name, 1)
    if fold_name(name) in BACKGROUND_NAMES:
        return 0
    if fold_name(name) in _IGNORE_WORDS:
        return IGNORED
    if name.isascii() and _VALUE.fullmatch(name) and int(name) < len(classes):
        return int(name)
    more = ", ..." if len(classes) > 9 else ""
    raise error_class(f"{name!r} is not a class", f"Use one of the classes ({', '.join(classes[1:9])}{more}), "
                      f"background, ignore or a class id from 0 to {len(classes) - 1}", where=where)
