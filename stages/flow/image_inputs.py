"""Handles image files given as inputs: chooses the output folder, and indexes the files there."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from stages.data.image_source import read_image_bytes
from stages.data.images import read_header
from stages.errors import BadData, CannotCreate, Stopped, UsageError
from stages.flow.execution import Inputs, Output, Report, Stop
from stages.flow.image_files import choose_image_ids, select_image_files
from stages.shards import (
    Item,
    Shard,
    ShardContents,
    build_image_records,
    parse_shard_name,
    provenance_entry,
    write_shard,
)
from stages.shards.disk import make_folder
from stages.shards.schema import FORMAT_VERSION
from stages.shards.writer import has_same_contents

INDEX_FILE_NAME = "images.h5"
# The photographs that cameras turned upright by a note in the file (EXIF) are turned, as with `index --apply-exif`.
_INDEX_SETTINGS = {"supervision": "none", "apply_exif": True}


def select_inputs(inputs: Inputs, output: Output, command: str, default_folder: str,
                  report: Report) -> tuple[Inputs, Output, list[Path]]:
    """Return the inputs, the output and the image files, of which there are none if the inputs are shards.

    With image files the output may be left out and is then `default_folder`, and `--root` has no meaning. Raises
    UsageError if the output was left out with shards, and what `select_image_files` raises.
    """
    folder = Path(default_folder) if output.is_left_out else output.path
    paths, files = select_image_files(inputs.paths, report, output=folder)
    if not files:
        if output.is_left_out:
            raise UsageError("missing option '-o' / '--output'", f"See `wsss {command} --help`")
        return replace(inputs, paths=paths), output, []
    if output.is_left_out:
        _check_default_folder(folder, output)
        report.info(f"Writing to the folder {folder}. Use --output to choose another.")
    return replace(inputs, paths=[], root=None), replace(output, path=folder), files


def _check_default_folder(folder: Path, output: Output) -> None:
    """Raise CannotCreate for a folder of the default name that was not made by this command."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / INDEX_FILE_NAME).exists() and not output.force:
        raise CannotCreate("already exists and holds other files", f"Name an output folder: {_suggest_output(folder)}",
                           where=str(folder))


def _suggest_output(folder: Path) -> str:
    """Return an option for a folder that does not exist: `--output cams-2`."""
    number = next(number for number in range(2, 1 << 20) if not Path(f"{folder}-{number}").exists())
    return f"--output {folder}-{number}"


def index_image_files(files: list[Path], classes: tuple[str, ...], output: Output, stop: Stop, report: Report, *,
                      with_pictures: bool = True) -> Path | None:
    """Write an index of image files to the output folder, and return its path.

    Only the headers of the files are decoded. `with_pictures` announces that a picture `<id>.png` of each image will be
    written to that folder. Returns None in a dry run without an existing index. Raises BadData for two files of one
    id, UsageError for an output that is no folder or would replace the images, CannotCreate if the folder belongs to
    other images, Stopped.
    """
    if output.is_file:
        raise UsageError(f"-o {output.path} is a file, but image files need a folder for their index and results",
                         "Give a folder as --output")
    item_ids = choose_image_ids(files)
    path = output.path / INDEX_FILE_NAME
    if with_pictures:
        _check_pictures(item_ids, files, path, output)
    contents = _build_index(files, item_ids, classes, output, stop, report)
    _check_existing_index(path, contents, output)
    if output.dry_run:
        return path if path.exists() and not output.force else None
    make_folder(output.path)
    # An index of an older format with these contents stays as it is, because the results in the folder name its digest.
    if output.force or not (path.exists() and Shard(path).attribute("format_version") != FORMAT_VERSION):
        write_shard(path, contents)
    return path


def _build_index(files: Sequence[Path], item_ids: Sequence[str], classes: tuple[str, ...], output: Output,
                 stop: Stop, report: Report) -> ShardContents:
    """Build the index of image files, and report how many are rotated."""
    # Links to folders are resolved: the images must be below the root without them.
    real_files = [Path(os.path.realpath(file.parent)) / file.name for file in files]
    root = Path(os.path.commonpath([file.parent for file in real_files]))
    report.start_progress("reading headers", len(files))
    items, num_rotated = [], 0
    for item_id, file in zip(item_ids, real_files, strict=True):
        item, is_rotated = _build_index_item(item_id, root, file.relative_to(root).as_posix())
        items.append(item)
        num_rotated += is_rotated
        report.advance()
        if stop.requested:
            raise Stopped("stopped by a signal", "Run the same command again")
    if num_rotated:
        subject = "the photograph as its" if len(files) == 1 else f"{num_rotated} of {len(files)} photographs as their"
        report.info(f"Rotated {subject} EXIF orientation says.")
    return ShardContents("index", classes, items, provenance=[provenance_entry("index", "files", _INDEX_SETTINGS, {})],
                         root_attrs={"root": os.path.relpath(root, os.path.abspath(output.path))},
                         image_records=build_image_records(items))


def _build_index_item(item_id: str, root: Path, path: str) -> tuple[Item, bool]:
    """Return the item of an image and whether its EXIF orientation rotates or mirrors it; a failed item if damaged."""
    try:
        data = read_image_bytes(root, path)
        header = read_header(data, where=path)
    except BadData as error:
        return Item(item_id, error=str(error)), False
    size = (header.height, header.width)
    height, width = size[::-1] if header.orientation >= 5 else size  # 5 to 8 swap rows and columns
    return Item(item_id, {}, {"path": path, "height": height, "width": width, "bytes": len(data),
                              "crc32": zlib.crc32(data)}), header.orientation != 1


def _check_pictures(item_ids: Iterable[str], files: list[Path], index: Path, output: Output) -> None:
    """Raise an error if a picture would replace an input image, or a picture that is older than the index."""
    input_files = {file.resolve() for file in files}
    for item_id in item_ids:
        picture = output.path / f"{item_id}.png"
        if picture.resolve() in input_files:
            raise UsageError(f"{picture} is an input image that its overlay would replace", "Choose another --output")
        if picture.exists() and not index.exists() and not output.force:
            raise CannotCreate("already exists, and an overlay would replace it",
                               "Choose another --output, or use --force", where=str(picture))


def _check_existing_index(path: Path, contents: ShardContents, output: Output) -> None:
    """Raise CannotCreate if the folder holds results of other images: their index, or shards without one."""
    if output.force:
        return
    if path.exists():
        existing = Shard(path)
        if not has_same_contents(existing, contents):
            raise CannotCreate(_describe_other_index(existing, contents),
                               f"Write to another folder, for example {_suggest_output(output.path)}, or use --force "
                               "to replace the results", where=str(path))
        return
    files = output.path.iterdir() if output.path.is_dir() else ()
    shards = sorted(file.name for file in files if parse_shard_name(file))
    if shards:
        raise CannotCreate(f"holds another run ({shards[0]})", "Write to another folder, for example "
                           f"{_suggest_output(output.path)}, or use --force to replace that run",
                           where=str(output.path))


def _describe_other_index(existing: Shard, contents: ShardContents) -> str:
    """Return how an index differs from the one that would be written."""
    if existing.kind != "index" or existing.classes != contents.classes:
        return "is an index of other classes"
    ids, existing_ids = [item.id for item in contents.items], existing.ids
    added = sorted(set(ids) - set(existing_ids))
    missing = sorted(set(existing_ids) - set(ids))
    changes = [f"{word} {_list_ids(names)}" for word, names in (("without", added), ("with", missing)) if names]
    if changes:
        return f"is an index of other images, {' and '.join(changes)}"
    return "is an index of other images: some of them have moved or changed since"


def _list_ids(item_ids: Sequence[str]) -> str:
    more = f" and {len(item_ids) - 3} more" if len(item_ids) > 3 else ""
    return ", ".join(item_ids[:3]) + more
