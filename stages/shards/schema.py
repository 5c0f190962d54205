"""The datasets and attributes of each kind of shard, as FORMAT.md describes them."""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = "wsss-shard"
FORMAT_VERSION = "1.1"
MAX_PIXELS = 200_000_000  # of an image, unless the provenance has a `max_pixels`


@dataclass(frozen=True)
class Array:
    """A dataset: its allowed dtypes, its number of axes, whether it is required, and whether it may have no rows."""

    name: str
    dtypes: tuple[str, ...]
    ndim: int
    required: bool = True
    can_be_empty: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of shard: the datasets of the root and of an item, and the required attributes."""

    name: str
    root: tuple[Array, ...] = ()
    item: tuple[Array, ...] = ()
    root_attrs: tuple[str, ...] = ()
    item_attrs: tuple[str, ...] = ()


_STRING = ("S",)
COMMON_ATTRS = ("format", "format_version", "kind", "part", "parts", "provenance", "digest",
                "index_digest", "index_path")
COMMON_ROOT = (Array("classes", _STRING, 1), Array("ids", _STRING, 1),
               Array("error_ids", _STRING, 1), Array("error_messages", _STRING, 1),
               Array("image_records", ("<i8",), 2, False), Array("in_training", ("|u1",), 1, False))

KINDS: dict[str, Kind] = {kind.name: kind for kind in (
    Kind("index", root_attrs=("root",), item_attrs=("path",), item=(
        Array("labels", ("<u2",), 1, False), Array("captions", _STRING, 1, False),
        Array("image", ("|u1",), 1, False), Array("mask", ("|u1",), 1, False))),
    Kind("features", root=(Array("features", ("<f4",), 2), Array("labels", ("|u1",), 2))),
    Kind("clusters", root=(Array("assignment", ("<i4",), 2), Array("n_clusters", ("<i4",), 1),
                           Array("partitions", ("<i4",), 3, False), Array("n_partitions", ("<i4",), 1, False))),
    Kind("cooc", root=(Array("counts", ("<i8",), 2), Array("probability", ("<f8",), 2),
                       Array("single_label", ("<i8",), 1))),
    Kind("cams", root_attrs=("background",), item_attrs=("height", "width", "covers"), item=(
        Array("class_ids", ("<u2",), 1), Array("cam", ("<f2", "|u1"), 3), Array("scores", ("<f4",), 1, False))),
    Kind("masks", item=(Array("mask", ("|u1", "<u2"), 2), Array("confidence", ("|u1",), 2, False))),
    Kind("regions", item=(Array("labels", ("<i4",), 2),)),
    Kind("bank", item=(Array("class_ids", ("<u2",), 1), Array("features", ("<f4",), 2, can_be_empty=True))),
)}


def shard_name(kind: str, part: int, parts: int) -> str:
    """Return the file name of a part of a run; missing parts are visible from the names alone."""
    return f"{kind}-{part:05d}-of-{parts:05d}.h5"
