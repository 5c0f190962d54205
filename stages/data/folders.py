"""Find image and mask files below a folder by id, without opening them."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from stages.data.image_source import read_image_bytes
from stages.data.masks import decode_mask, get_ignore_index
from stages.data.records import ImageRecord
from stages.errors import BadData, MissingInput

# In order of preference if an id has several files.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".jp2")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".mat")


def require_folder(path: Path, remedy: str = "Check the path") -> Path:
    """Return `path` if it is a folder. Raises MissingInput with `remedy` otherwise."""
    path = Path(path)
    if not path.is_dir():
        message = "this is a file, but a folder is required" if path.exists() else "there is no such folder"
        raise MissingInput(message, remedy, where=str(path))
    return path


def find_common_root(*folders: Path) -> Path:
    """Return the deepest folder that contains all `folders`, as an absolute path."""
    return Path(os.path.commonpath([os.path.normpath(Path(folder).absolute()) for folder in folders]))


def resolve_inside_root(path: str, root: Path, where: str) -> str:
    """Return `path`, relative to `root` or absolute within it, as a relative path with '/'.

    '.' and '..' are resolved in the text of the path. Links inside the root may point anywhere, since people build
    subsets of a data set from links. Raises BadData if the path leads out of the root.
    """
    relative = path.replace("\\", "/") if os.name == "nt" else path
    if posixpath.isabs(relative):
        relative = Path(os.path.relpath(relative, root.absolute())).as_posix()
    relative = posixpath.normpath(relative)
    if relative.startswith("../") or relative in ("..", ".") or "\0" in relative:
        raise BadData(f"the path {path!r} leads out of {root}", "Use a path below that folder", where=where)
    return relative


class FileFinder:
    """Find the file of an id below one folder: the id plus a known suffix in upper or lower case, or the id itself.

    Each sub-folder is listed once and the listing cached, so 10,000 look-ups cost one listing.
    """

    def __init__(self, folder: Path, root: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> None:
        """Look in `folder`; results are paths relative to `root`, which contains it."""
        self.folder = folder
        self.prefix = Path(os.path.relpath(Path(folder).absolute(), root.absolute())).as_posix()
        self.suffixes = suffixes
        self._cached_listings: dict[str, dict[str, str]] = {}

    def find(self, name: str) -> str | None:
        """Return the path, relative to the root, of the file of id `name`, or None if there is none."""
        parent, _, last = name.rpartition("/")
        files = self._list_files(parent)
        file = files.get(last)
        if file is None and has_image_suffix(last):
            file = files.get(posixpath.splitext(last)[0])
        return None if file is None else self.relative_to_root(f"{parent}/{file}" if parent else file)

    def relative_to_root(self, path: str) -> str:
        """Convert a path relative to the folder to one relative to the root."""
        return posixpath.normpath(f"{self.prefix}/{path}")

    def list_ids(self) -> list[str]:
        """Return the ids of the files directly in the folder, sorted."""
        ids = {posixpath.splitext(file)[0] for file in self._list_files("").values()}
        return sorted(ids)

    def _list_files(self, parent: str) -> dict[str, str]:
        """Return the file names of a sub-folder by id and by full name, from the cache if it was listed before."""
        if parent not in self._cached_listings:
            try:
                files = [path.name for path in (self.folder / parent).iterdir()]
            except OSError:
                files = []
            self._cached_listings[parent] = self._map_names_to_files(files)
        return self._cached_listings[parent]

    def _map_names_to_files(self, files: list[str]) -> dict[str, str]:
        ranked = []
        for file in files:
            stem, suffix = posixpath.splitext(file)
            if suffix.lower() in self.suffixes:
                ranked.append((self.suffixes.index(suffix.lower()), file, stem))
        file_by_name: dict[str, str] = {}
        for _, file, stem in sorted(ranked):
            file_by_name.setdefault(stem, file)
        # A name with a suffix means exactly that file.
        file_by_name.update({file: file for _, file, _ in ranked})
        return file_by_name


def has_image_suffix(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def read_labels_from_masks(
    records: Iterable[ImageRecord], root: Path, num_classes: int
) -> tuple[tuple[ImageRecord, ...], tuple[str, ...]]:
    """Return the records with the labels that their masks contain, and notes for the user.

    This leaks the ground truth into the supervision, so it happens only on request. It is the only place where an
    importer opens masks. If a mask is missing or broken, the labels are unknown.
    """
    labelled_records, notes = [], []
    for record in records:
        labels = None
        if record.mask_path is not None:
            try:
                data = read_image_bytes(root, record.mask_path)
                mask = decode_mask(data, where=record.mask_path, num_classes=num_classes)
                class_ids = set(mask.ravel().tolist()) - {0, get_ignore_index(num_classes)}
                labels = tuple(sorted(class_ids))
            except BadData as error:
                notes.append(f"The labels of {record.id} are unknown: {error}")
        labelled_records.append(replace(record, labels=labels))
    return tuple(labelled_records), tuple(notes)
