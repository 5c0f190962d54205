"""Find image and mask files below a folder by id, without opening them."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from stages.data.archive_files import check_not_archive
from stages.data.image_source import read_image_bytes
from stages.data.mask_values import MaskValues
from stages.data.masks import decode_mask, get_ignore_index
from stages.data.records import ImageRecord
from stages.data.similar_names import SimilarNames, describe_corrections, suggest_file
from stages.errors import BadData, MissingInput

# In order of preference if an id has several files.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".jp2", ".heic", ".heif",
                  ".avif")
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif", ".mat")


def require_folder(path: Path, remedy: str = "Check the path") -> Path:
    """Return `path` if it is a folder. Raises MissingInput with `remedy` otherwise, BadData for an archive."""
    path = Path(path)
    if path.is_file():
        check_not_archive(path)
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
    # A table from Windows has backslashes; on other systems they may be part of a name.
    relative = path if "\\" not in path or (root / path).exists() else path.replace("\\", "/")
    if posixpath.isabs(relative):
        relative = Path(os.path.relpath(relative, root.absolute())).as_posix()
    relative = posixpath.normpath(relative)
    if relative.startswith("../") or relative in ("..", ".") or "\0" in relative:
        raise BadData(f"the path {path!r} leads out of {root}", "Use a path below that folder", where=where)
    return relative


class FileFinder:
    """Find the file of an id below one folder: the id plus a known suffix in upper or lower case, or the id itself.

    A name that differs from a file in letter case, Unicode form, suffix or separators (`\\`) only is corrected, and
    counted for `describe_corrections`. Each sub-folder is listed once, so 10,000 look-ups cost one listing.
    """

    def __init__(self, folder: Path, root: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> None:
        """Look in `folder`; results are paths relative to `root`, which contains it."""
        self.folder = folder
        self.prefix = Path(os.path.relpath(Path(folder).absolute(), root.absolute())).as_posix()
        self.suffixes = suffixes
        self._cached_names: dict[str, list[str]] = {}
        self._cached_listings: dict[str, dict[str, str]] = {}
        self._cached_similar: dict[str, SimilarNames] = {}
        self._exact_paths: set[str] = set()
        self._corrections: dict[str, str] = {}

    def find(self, name: str, *, written: str = "") -> str | None:
        """Return the path, relative to the root, of the file of id `name`, or None if there is none.

        `written` is the name as the user wrote it, if it was changed before, for the note on corrected names. Raises
        BadData if two files are similar to the name and none is equal.
        """
        parent, _, last = name.rpartition("/")
        files = self._list_files(parent)
        file = files.get(last)
        if file is None and has_image_suffix(last) and not last.lower().endswith(self.suffixes):
            file = files.get(posixpath.splitext(last)[0])
        if file is None:
            return self._find_similar(name, written or name)
        path = self.relative_to_root(f"{parent}/{file}" if parent else file)
        self._exact_paths.add(path)
        return path

    def _find_similar(self, name: str, written: str) -> str | None:
        *parents, last = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")] or [""]
        folder = ""
        for part in parents:
            match = part if part == ".." else self._list_similar(folder).find_folder(part)
            if match is None:
                return None
            folder = f"{folder}/{match}" if folder else match
        file = self._list_similar(folder).find_file(last, IMAGE_SUFFIXES)
        if file is None:
            return None
        path = self.relative_to_root(f"{folder}/{file}" if folder else file)
        self.add_correction(written, path)
        return path

    def add_correction(self, name: str, path: str) -> None:
        """Count a name for which the file `path`, relative to the root, is used."""
        self._corrections[name] = path

    def describe_corrections(self) -> tuple[str, ...]:
        """Return a note on the names that were corrected, if any.

        Raises BadData if a corrected name led to the file of another name.
        """
        return describe_corrections(self._corrections, self._exact_paths)

    def describe_missing(self, name: str) -> str:
        """Return a sentence on one path that was tried and the closest match, for an error about missing images."""
        suffix = "" if has_image_suffix(name) else self.suffixes[0]
        return f"Tried {self.folder / name}{suffix}, {suggest_file(self.folder, name, self.suffixes)}"

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
            self._cached_listings[parent] = self._map_names_to_files(self._list_names(parent))
        return self._cached_listings[parent]

    def _list_similar(self, parent: str) -> SimilarNames:
        if parent not in self._cached_similar:
            self._cached_similar[parent] = SimilarNames(self.folder / parent, self._list_names(parent), self.suffixes)
        return self._cached_similar[parent]

    def _list_names(self, parent: str) -> list[str]:
        if parent not in self._cached_names:
            try:
                with os.scandir(self.folder / parent) as entries:
                    self._cached_names[parent] = [entry.name for entry in entries]
            except (OSError, ValueError):
                self._cached_names[parent] = []
        return self._cached_names[parent]

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


def walk_files(folder: Path, linked_twice: list[Path] | None = None) -> Iterator[str]:
    """Yield the paths, relative to `folder` with '/', of all files below it that are not hidden, sorted by folder.

    Links to folders are followed, but no folder is entered twice, nor one that contains `folder`; links to these are
    added to `linked_twice`.
    """
    entered = {os.path.realpath(parent) for parent in folder.absolute().parents}

    def should_enter(sub_folder: Path) -> bool:
        real_path = os.path.realpath(sub_folder)
        if real_path in entered and linked_twice is not None:
            linked_twice.append(sub_folder)
        is_new = real_path not in entered
        entered.add(real_path)
        return is_new

    if not should_enter(folder):
        return
    for parent, sub_folders, names in os.walk(folder, followlinks=True):
        sub_folders[:] = [name for name in sorted(sub_folders)
                          if not name.startswith(".") and should_enter(Path(parent, name))]
        for name in sorted(names):
            if not name.startswith("."):
                yield (Path(parent) / name).relative_to(folder).as_posix()


def has_image_suffix(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def read_labels_from_masks(
    records: Iterable[ImageRecord], root: Path, num_classes: int, mask_values: MaskValues | None = None
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
                mask = decode_mask(data, where=record.mask_path, num_classes=num_classes,
                                   mask_values=mask_values)
                class_ids = set(mask.ravel().tolist()) - {0, get_ignore_index(num_classes)}
                labels = tuple(sorted(class_ids))
            except BadData as error:
                notes.append(f"The labels of {record.id} are unknown: {error}")
        labelled_records.append(replace(record, labels=labels))
    return tuple(labelled_records), tuple(notes)
