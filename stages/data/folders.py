"""Finding image and mask files below a folder by id, without opening any."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stages.data.masks import decode_mask, ignore_id
from stages.data.records import Record
from stages.data.source import read_bytes
from stages.errors import BadData, MissingInput

# In order of preference where an id has several files.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".jp2")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".mat")


def existing_folder(path: Path, do: str = "check the path") -> Path:
    """Return `path` when it is a folder; else raises MissingInput."""
    path = Path(path)
    if not path.is_dir():
        raise MissingInput("is a file, a folder is needed" if path.exists() else "no such folder", do, where=str(path))
    return path


def common_root(*folders: Path) -> Path:
    """Return the deepest folder that holds all `folders`, as an absolute path: the first one if it does."""
    return Path(os.path.commonpath([os.path.normpath(Path(folder).absolute()) for folder in folders]))


def below(path: str, root: Path, where: str) -> str:
    """Return `path`, relative to `root` or absolute within it, as a relative path with '/'.

    '.' and '..' are resolved in the text of the path; links inside the root may point anywhere, since people
    build subsets of a data set from links. Raises BadData when the path leads out of the root.
    """
    parts = path.replace("\\", "/") if os.name == "nt" else path
    if posixpath.isabs(parts):
        parts = Path(os.path.relpath(parts, root.absolute())).as_posix()
    parts = posixpath.normpath(parts)
    if parts.startswith("../") or parts in ("..", ".") or "\0" in parts:
        raise BadData(f"path {path!r} leads out of {root}", "give a path below that folder", where=where)
    return parts


class FileFinder:
    """Finds the file of an id below one folder: the id plus a known suffix in any case, or the id itself.

    Every sub-folder is listed once, so that 10,000 look-ups cost one listing.
    """

    def __init__(self, folder: Path, root: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> None:
        """Look in `folder`; answers are paths relative to `root`, which holds it."""
        self.folder = folder
        self.prefix = Path(os.path.relpath(Path(folder).absolute(), root.absolute())).as_posix()
        self.suffixes = suffixes
        self._listed: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> str | None:
        """Return the path, relative to the root, of the file of id `name`; None when there is none."""
        parent, _, last = name.rpartition("/")
        files = self._files(parent)
        file = files.get(last)
        if file is None and is_image(last):
            file = files.get(posixpath.splitext(last)[0])
        return None if file is None else self.place(f"{parent}/{file}" if parent else file)

    def place(self, path: str) -> str:
        """Return `path`, relative to the folder, relative to the root."""
        return posixpath.normpath(f"{self.prefix}/{path}")

    def names(self) -> list[str]:
        """Return the ids of the files directly in the folder, sorted."""
        found = {posixpath.splitext(file)[0] for file in self._files("").values()}
        return sorted(found)

    def _files(self, parent: str) -> dict[str, str]:
        if parent not in self._listed:
            try:
                files = [path.name for path in (self.folder / parent).iterdir()]
            except OSError:
                files = []
            self._listed[parent] = self._by_name(files)
        return self._listed[parent]

    def _by_name(self, files: list[str]) -> dict[str, str]:
        ranked = []
        for file in files:
            stem, suffix = posixpath.splitext(file)
            if suffix.lower() in self.suffixes:
                ranked.append((self.suffixes.index(suffix.lower()), file, stem))
        by_name: dict[str, str] = {}
        for _, file, stem in sorted(ranked):
            by_name.setdefault(stem, file)
        # A name with its suffix means that very file.
        by_name.update({file: file for _, file, _ in ranked})
        return by_name


def is_image(name: str) -> bool:
    """Tell whether a file name has the suffix of an image."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def with_labels_of_masks(
    records: Iterable[Record], root: Path, n_classes: int
) -> tuple[tuple[Record, ...], tuple[str, ...]]:
    """Return the records with labels as their masks show them (a leak: it must be asked for), and notes.

    The only place where an importer opens masks. A mask that is missing or broken leaves the labels unknown.
    """
    labelled, notes = [], []
    for record in records:
        labels = None
        if record.mask_path is not None:
            try:
                data = read_bytes(root, record.mask_path)
                mask = decode_mask(data, where=record.mask_path, n_classes=n_classes)
                present = set(mask.ravel().tolist()) - {0, ignore_id(n_classes)}
                labels = tuple(sorted(present))
            except BadData as error:
                notes.append(f"labels of {record.id} are unknown: {error}")
        labelled.append(replace(record, labels=labels))
    return tuple(labelled), tuple(notes)
