"""Image files straight on the command line: an index made of them, and a picture beside each mask."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from stages.data.draw import cam_colours, overlay
from stages.data.images import decode_image, encode_png
from stages.data.source import ImageSource
from stages.errors import BadData, CannotCreate, MissingInput, UsageError
from stages.flow.execution import Output, Report
from stages.flow.maps import full_size
from stages.flow.parts import find_index
from stages.flow.stream import peeked
from stages.shards import Contents, Item, Run, Shard, checked_id, provenance_entry, write_shard
from stages.shards.disk import make_folder, replace_file
from stages.shards.writer import shard_bytes

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
INDEX_NAME = "images.h5"


def image_files(paths: Iterable[str]) -> tuple[Iterable[str], list[Path]]:
    """Return (paths, []) where they are shards, and ([], files) where they are image files; never a mixture."""
    first, whole = peeked(paths)
    if first is None or Path(first).suffix.lower() not in _SUFFIXES:
        return whole, []
    files = [Path(path) for path in whole]
    others = [file for file in files if file.suffix.lower() not in _SUFFIXES]
    if others:
        raise UsageError(f"{others[0]} stands among image files", "give either shards or images")
    return [], files


def index_of_files(files: list[Path], classes: tuple[str, ...], output: Output, *, painted: bool = True) -> Path | None:
    """Write an index of image files beside the output, and return its path. Ids are the names without suffix.

    `painted` tells that `write_pictures` will put a picture of each beside it.
    None in a dry run where there is none yet. Raises MissingInput, BadData for two files of one name, UsageError for an
    output that is no folder or would replace the images, CannotCreate when an index of other images is there.
    """
    if output.is_file:
        raise UsageError(f"-o {output.path} is one file, but image files also get an index", "give a folder")
    root = Path(os.path.commonpath([os.path.abspath(file.parent) for file in files]))
    items: dict[str, Item] = {}
    for file in files:
        if not file.is_file():
            raise MissingInput("is not there", where=str(file))
        name = checked_id(file.stem, where=str(file))
        if name in items:
            raise BadData(f"the id {name} is there twice", "index the folder instead", where=str(file))
        items[name] = _entry(name, file, os.path.relpath(os.path.abspath(file), root))
    entry = provenance_entry("index", "files", {"supervision": "none"}, {})
    contents = Contents("index", classes, list(items.values()), provenance=[entry],
                        root_attrs={"root": os.path.relpath(root, os.path.abspath(output.path))})
    path = output.path / INDEX_NAME
    if painted:
        _spares_pictures(items, files, path, output)
    _agrees(path, contents, output)
    if output.dry_run:
        return path if path.exists() and not output.force else None
    make_folder(output.path)
    write_shard(path, contents)
    return path


def _spares_pictures(items: Iterable[str], files: list[Path], index: Path, output: Output) -> None:
    """Leave pictures alone that are not ours: the images themselves, and those that are there before our index."""
    own = {file.resolve() for file in files}
    for name in items:
        picture = output.path / f"{name}.png"
        if picture.resolve() in own:
            raise UsageError(f"{picture} is an image that its own picture would replace", "give another -o")
        if picture.exists() and not index.exists() and not output.force:
            raise CannotCreate("is there, and a picture would replace it", "give another -o, or --force",
                               where=str(picture))


def _agrees(path: Path, contents: Contents, output: Output) -> None:
    """Leave an index of other images alone: the masks beside it are of those."""
    if path.exists() and not output.force and Shard(path).digest != shard_bytes(contents)[1]:
        raise CannotCreate("is of other images", "give another -o, or --force to replace it", where=str(path))


def _entry(name: str, file: Path, path: str) -> Item:
    data = file.read_bytes()
    try:
        height, width = decode_image(data, where=path).shape[:2]
    except BadData as error:
        return Item(name, error=str(error))
    return Item(name, {}, {"path": path, "height": height, "width": width, "bytes": len(data),
                           "crc32": zlib.crc32(data)})


def write_pictures(output: Output, kind: str, report: Report) -> None:
    """Write OUT/<id>.png for every item of the run of `kind` at `output`: the image with masks or maps laid over."""
    run = Run([output.path], kind, whole=False)
    images = ImageSource(Run([find_index(run.first, None)]).first)
    for item_id in run.ids:
        if item_id in run:
            picture = output.path / f"{item_id}.png"
            image, item = images.image(item_id), run.item(item_id)
            if kind == "masks":
                painted = overlay(image, item.datasets["mask"])
            else:
                painted = cam_colours(*full_size(item), image=image)
            replace_file(picture, encode_png(painted))
            report.tell(str(picture))
