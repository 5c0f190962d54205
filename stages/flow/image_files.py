"""Finds the image files among the inputs of a command: files, and folders of photographs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from stages.data.folders import IMAGE_SUFFIXES
from stages.data.image_formats import (
    AVIF_REMEDY,
    AVIF_SUFFIXES,
    HEIF_REMEDY,
    HEIF_SUFFIXES,
    detect_file_format,
    has_decoder,
)
from stages.errors import BadData, MissingInput, UsageError
from stages.flow.execution import Report, SilentReport
from stages.flow.path_stream import LivePaths, peek_first_path
from stages.shards import validate_item_id

# Images that need a decoder which neither Pillow nor an extra has: cameras and drawing programs write them.
UNREADABLE_SUFFIXES = frozenset((
    ".jxl", ".svg", ".psd", ".eps", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2",
    ".raf", ".pef", ".srw", ".raw"))
_IGNORED_NAMES = frozenset(("__MACOSX", "Thumbs.db", "desktop.ini"))
# Stands for / in the id of a photograph in a sub-folder, because the id is also the name of its picture.
FOLDER_SEPARATOR = "~"
_MAX_LISTED_FILES = 3
_CONVERT = "Convert it to JPEG or PNG"


class _Kind(Enum):
    """What an input path is, by its suffix, or by what a folder holds."""

    SHARDS, IMAGE, FOLDER, UNREADABLE, OTHER = range(5)


@dataclass
class _Skipped:
    """The files and folders that are not used, to be reported together."""

    others: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)

    def describe(self) -> Iterator[str]:
        """Yield one message per kind of skipped file; images that cannot be read are named one by one."""
        if self.others:
            what = "file that is not an image" if len(self.others) == 1 else "files that are not images"
            yield f"Skipping {len(self.others)} {what}: {_list_names(self.others)}"
        for path in self.unreadable[:_MAX_LISTED_FILES]:
            yield f"Skipping {path.name}: not an image this installation can read. {_suggest_decoder(path)}."
        rest = self.unreadable[_MAX_LISTED_FILES:]
        if rest:
            yield f"Skipping {len(rest)} more that this installation cannot read: {_list_names(rest)}"
        for path in self.runs:
            yield f"Skipping the folder {path}, which holds shards."


def select_image_files(paths: Iterable[str], report: Report | None = None, *,
                       output: Path | None = None) -> tuple[Iterable[str], list[Path]]:
    """Return (paths, []) if the inputs are shards, ([], files) if they are image files or folders of photographs.

    The photographs of a folder are those at any depth, sorted by path, without the folder `output` and folders that
    hold shards. Other files are skipped and reported. A live stream of paths whose first path is a shard is not read.
    Raises UsageError for a mixture of shards and image files, MissingInput if a file does not exist or a folder has no
    photograph, BadData if none of the images can be read.
    """
    first, all_paths = peek_first_path(paths)
    if first is None or (isinstance(paths, LivePaths) and _find_kind(Path(first)) is _Kind.SHARDS):
        return all_paths, []
    listed = list(all_paths)
    kinds = {path: _find_kind(Path(path)) for path in listed}
    if not {_Kind.IMAGE, _Kind.FOLDER, _Kind.UNREADABLE} & set(kinds.values()):
        return listed, []
    shards = [path for path, kind in kinds.items() if kind is _Kind.SHARDS]
    if shards:
        raise UsageError(f"{shards[0]} is not an image file, but other inputs are",
                         f"Give either shards or image files ({', '.join(sorted(IMAGE_SUFFIXES))})")
    skipped = _Skipped()
    files = [file for path in listed for file in _expand(Path(path), kinds[path], output, skipped)]
    for message in skipped.describe():
        (report or SilentReport()).info(message)
    if not files:
        raise _build_no_image_error(listed, skipped)
    # A folder and a file in it may both be given.
    return [], list({os.path.abspath(file): file for file in files}.values())


def _build_no_image_error(paths: Sequence[str], skipped: _Skipped) -> MissingInput | BadData:
    if skipped.unreadable:
        path = skipped.unreadable[0]
        return BadData("not an image this installation can read", _suggest_decoder(path), where=str(path))
    folder = next(path for path in paths if Path(path).is_dir())
    return MissingInput("holds no shards and no photographs",
                        f"Give a folder with image files ({', '.join(sorted(IMAGE_SUFFIXES))})", where=folder)


def _find_kind(path: Path) -> _Kind:
    """Return what a path is. Raises UsageError for a folder that holds both shards and image files."""
    suffix = path.suffix.lower()
    if suffix == ".h5":
        return _Kind.SHARDS
    if path.is_dir():
        return _find_folder_kind(path)
    if _is_unreadable(suffix):
        return _Kind.UNREADABLE
    return _Kind.IMAGE if suffix in IMAGE_SUFFIXES or _is_nameless_image(path) else _Kind.OTHER


def _is_unreadable(suffix: str) -> bool:
    return suffix in UNREADABLE_SUFFIXES or not has_decoder(suffix)


def _is_nameless_image(path: Path) -> bool:
    """Return whether a file has no suffix but the contents of an image."""
    return not path.suffix and bool(detect_file_format(path))


def _suggest_decoder(path: Path) -> str:
    """Return what makes an image readable: an extra, or converting it."""
    suffix = path.suffix.lower()
    if suffix in HEIF_SUFFIXES:
        return HEIF_REMEDY
    return AVIF_REMEDY if suffix in AVIF_SUFFIXES else _CONVERT


def _find_folder_kind(folder: Path) -> _Kind:
    shard = _find_shard(folder)
    if shard is None:
        return _Kind.FOLDER
    images = sorted(path.name for path in folder.iterdir()
                    if path.suffix.lower() in IMAGE_SUFFIXES and not _is_ignored(path.name))
    if images:
        raise UsageError(f"{folder} holds both shards ({shard}) and image files ({images[0]})",
                         f"Give the files themselves, for example {folder / shard} or "
                         f"{folder}/*{Path(images[0]).suffix}")
    return _Kind.SHARDS


def _find_shard(folder: Path) -> str | None:
    """Return the first name of a shard in a folder, None if it holds none."""
    return min((path.name for path in folder.iterdir() if path.suffix == ".h5"), default=None)


def _expand(path: Path, kind: _Kind, output: Path | None, skipped: _Skipped) -> Iterator[Path]:
    """Yield the image files that an input path stands for; note what is skipped. Raises MissingInput, UsageError."""
    if kind is _Kind.FOLDER:
        if output is not None and os.path.realpath(path) == os.path.realpath(output):
            raise UsageError(f"{path} is both the folder of the photographs and the output",
                             "Choose another --output")
        files = sorted(_walk_folder(path, output, skipped))
    else:
        files = [path]
        if not path.exists():
            raise MissingInput("does not exist", "Check the path of the image file", where=str(path))
    for file in files:
        suffix = file.suffix.lower()
        if _is_unreadable(suffix):
            skipped.unreadable.append(file)
        elif suffix in IMAGE_SUFFIXES or _is_nameless_image(file):
            yield file
        elif not _is_ignored(file.name):
            skipped.others.append(file)


def _walk_folder(folder: Path, output: Path | None, skipped: _Skipped) -> Iterator[Path]:
    """Yield the files below a folder. Links to folders are followed, but no folder is entered twice."""
    seen = {os.path.realpath(folder), *([os.path.realpath(output)] if output is not None else ())}

    def should_enter(sub_folder: Path) -> bool:
        real_path = os.path.realpath(sub_folder)
        if _is_ignored(sub_folder.name) or real_path in seen:
            return False
        seen.add(real_path)
        if _find_shard(sub_folder) is not None:
            skipped.runs.append(sub_folder)
            return False
        return True

    for parent, sub_folders, names in os.walk(folder, followlinks=True, onerror=_raise_error):
        sub_folders[:] = [name for name in sorted(sub_folders) if should_enter(Path(parent, name))]
        yield from (Path(parent, name) for name in names if not _is_ignored(name))


def _raise_error(error: OSError) -> None:
    """Raise the error of a folder that cannot be listed, which `os.walk` would pass over."""
    raise error


def _is_ignored(name: str) -> bool:
    """Return whether a file or folder is hidden, or one that systems add by themselves."""
    return name.startswith(".") or name in _IGNORED_NAMES


def _list_names(paths: Sequence[Path]) -> str:
    more = ", ..." if len(paths) > _MAX_LISTED_FILES else ""
    return ", ".join(path.name for path in paths[:_MAX_LISTED_FILES]) + more


def choose_image_ids(files: Sequence[Path]) -> list[str]:
    """Return an id per image file: its name without suffix.

    If that is the name of files in different folders, all ids are paths below the common folder, with `~` in place of
    `/`; files of one folder that differ only in their suffix keep it. Raises BadData for an invalid id, and for two
    files that would still have the same one.
    """
    absolute = [Path(os.path.abspath(file)) for file in files]
    num_siblings = Counter(path.with_suffix("") for path in absolute)
    names = [path.name if num_siblings[path.with_suffix("")] > 1 else path.stem for path in absolute]
    if len({path.name for path in num_siblings}) < len(num_siblings):  # a stem occurs in two folders
        root = os.path.commonpath([path.parent for path in absolute])
        folders = [Path(os.path.relpath(path.parent, root)).parts for path in absolute]
        names = [FOLDER_SEPARATOR.join((*parts, name)) for parts, name in zip(folders, names, strict=True)]
    file_by_id: dict[str, Path] = {}
    for name, file in zip(names, files, strict=True):
        other = file_by_id.setdefault(validate_item_id(name, where=str(file)), file)
        if other is not file:
            raise BadData(f"would have the same id {name} as {other}", "Rename one of the two files", where=str(file))
    return names
