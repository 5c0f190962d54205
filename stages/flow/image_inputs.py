"""Handles image files given as inputs: indexes them, and writes an overlay next to each result."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path

from stages.data.draw import colour_cams, overlay_mask
from stages.data.image_source import ImageSource
from stages.data.images import decode_image, encode_png
from stages.errors import BadData, CannotCreate, MissingInput, UsageError
from stages.flow.execution import Output, Report
from stages.flow.item_arrays import resize_to_image
from stages.flow.parts import find_index
from stages.flow.path_stream import peek_first_path
from stages.shards import Item, Run, Shard, ShardContents, provenance_entry, validate_item_id, write_shard
from stages.shards.disk import make_folder, replace_file
from stages.shards.writer import encode_shard

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
INDEX_FILE_NAME = "images.h5"


def select_image_files(paths: Iterable[str]) -> tuple[Iterable[str], list[Path]]:
    """Return (paths, []) if the inputs are shards, ([], files) if they are image files.

    The first path decides. Raises UsageError for a mixture.
    """
    first, all_paths = peek_first_path(paths)
    if first is None or Path(first).suffix.lower() not in _IMAGE_SUFFIXES:
        return all_paths, []
    files = [Path(path) for path in all_paths]
    others = [file for file in files if file.suffix.lower() not in _IMAGE_SUFFIXES]
    if others:
        raise UsageError(f"{others[0]} is not an image file, but other inputs are",
                         f"Give either shards or image files ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    return [], files


def index_image_files(files: list[Path], classes: tuple[str, ...], output: Output, *,
                      with_overlays: bool = True) -> Path | None:
    """Write an index of image files to the output folder, and return its path. Ids are the names without suffix.

    `with_overlays` announces that `write_overlays` will write a picture for each image to that folder. Returns None in
    a dry run without an existing index. Raises MissingInput, BadData for two files of one name, UsageError for an
    output that is no folder or would replace the images, CannotCreate if the folder holds an index of other images.
    """
    if output.is_file:
        raise UsageError(f"-o {output.path} is a file, but image files need a folder for their index and results",
                         "Give a folder as --output")
    root = Path(os.path.commonpath([os.path.abspath(file.parent) for file in files]))
    items: dict[str, Item] = {}
    for file in files:
        if not file.is_file():
            raise MissingInput("does not exist", "Check the path of the image file", where=str(file))
        name = validate_item_id(file.stem, where=str(file))
        if name in items:
            raise BadData(f"another image file has the same id {name}", "Index the folder with `wsss index folder`",
                          where=str(file))
        items[name] = _build_index_item(name, file, os.path.relpath(os.path.abspath(file), root))
    entry = provenance_entry("index", "files", {"supervision": "none"}, {})
    contents = ShardContents("index", classes, list(items.values()), provenance=[entry],
                             root_attrs={"root": os.path.relpath(root, os.path.abspath(output.path))})
    path = output.path / INDEX_FILE_NAME
    if with_overlays:
        _check_overlays(items, files, path, output)
    _check_existing_index(path, contents, output)
    if output.dry_run:
        return path if path.exists() and not output.force else None
    make_folder(output.path)
    write_shard(path, contents)
    return path


def _check_overlays(item_ids: Iterable[str], files: list[Path], index: Path, output: Output) -> None:
    """Raise an error if an overlay would replace an input image, or a picture that is older than the index."""
    input_files = {file.resolve() for file in files}
    for item_id in item_ids:
        overlay = output.path / f"{item_id}.png"
        if overlay.resolve() in input_files:
            raise UsageError(f"{overlay} is an input image that its overlay would replace", "Choose another --output")
        if overlay.exists() and not index.exists() and not output.force:
            raise CannotCreate("already exists, and an overlay would replace it",
                               "Choose another --output, or use --force", where=str(overlay))


def _check_existing_index(path: Path, contents: ShardContents, output: Output) -> None:
    """Raise CannotCreate if there is an index of other images, to which the results in the folder belong."""
    if path.exists() and not output.force and Shard(path).digest != encode_shard(contents)[1]:
        raise CannotCreate("is an index of other images", "Choose another --output, or use --force to replace it",
                           where=str(path))


def _build_index_item(name: str, file: Path, path: str) -> Item:
    data = file.read_bytes()
    try:
        height, width = decode_image(data, where=path).shape[:2]
    except BadData as error:
        return Item(name, error=str(error))
    return Item(name, {}, {"path": path, "height": height, "width": width, "bytes": len(data),
                           "crc32": zlib.crc32(data)})


def write_overlays(output: Output, kind: str, report: Report) -> None:
    """Write OUT/<id>.png for every item of the run of `kind` at `output`: the image overlaid with its mask or CAMs."""
    run = Run([output.path], kind, require_all=False)
    images = ImageSource(Run([find_index(run.first, None)]).first)
    for item_id in run.ids:
        if item_id in run:
            path = output.path / f"{item_id}.png"
            image, item = images.read_image(item_id), run.item(item_id)
            if kind == "masks":
                overlay = overlay_mask(image, item.datasets["mask"])
            else:
                overlay = colour_cams(*resize_to_image(item), image=image)
            replace_file(path, encode_png(overlay))
            report.info(str(path))
