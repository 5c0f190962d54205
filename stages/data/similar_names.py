"""Finds the file that a name means but spells differently: letter case, Unicode form, suffix, `\\` for `/`."""

from __future__ import annotations

import difflib
import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stages.errors import BadData

_MAX_COMPARED_NAMES = 5_000
_MAX_VISITED_FILES = 20_000


def normalise_name(name: str) -> str:
    """Return the form in which names are compared: Unicode NFC (macOS stores NFD), letter case ignored."""
    return unicodedata.normalize("NFC", name).casefold()


class SimilarNames:
    """The names in one folder by their normalised form, with and without suffix."""

    def __init__(self, folder: Path, names: Iterable[str], suffixes: tuple[str, ...]) -> None:
        """`names` are all names in `folder`; only files with one of `suffixes` are found by `find_file`."""
        self.folder = folder
        self._names: dict[str, list[str]] = defaultdict(list)
        self._files_by_stem: dict[str, list[str]] = defaultdict(list)
        for name in sorted(names):
            self._names[normalise_name(name)].append(name)
            stem, suffix = posixpath.splitext(name)
            if suffix.lower() in suffixes:
                self._files_by_stem[normalise_name(stem)].append(name)
        self._suffixes = suffixes

    def find_folder(self, name: str) -> str | None:
        """Return the sub-folder that is meant by `name`, None if there is none. Raises BadData if there are two."""
        folders = [candidate for candidate in self._names.get(normalise_name(name), ())
                   if (self.folder / candidate).is_dir()]
        return name if name in folders else self._require_single(name, folders)

    def find_file(self, name: str, known_suffixes: tuple[str, ...]) -> str | None:
        """Return the file that is meant by `name`, None if there is none. Raises BadData if there are two.

        A name whose suffix is one of `known_suffixes` also finds files with another one.
        """
        stem, suffix = posixpath.splitext(name)
        files = [file for file in self._names.get(normalise_name(name), ())
                 if posixpath.splitext(file)[1].lower() in self._suffixes]
        files = files or self._files_by_stem.get(normalise_name(name), [])
        if not files and suffix.lower() in known_suffixes:
            files = self._files_by_stem.get(normalise_name(stem), [])
        return self._require_single(name, files)

    def _require_single(self, name: str, matches: list[str]) -> str | None:
        if len(matches) > 1:
            raise BadData(f"there is no {name!r}, but {matches[0]!r} and {matches[1]!r} differ from it in letter case, "
                          "suffix or Unicode form only", f"Write one of these names instead of {name!r}, or rename the "
                          "files", where=str(self.folder))
        return matches[0] if matches else None


def describe_corrections(corrections: Mapping[str, str], exact_paths: set[str]) -> tuple[str, ...]:
    """Return a note on names that were corrected, {name: path}; none if there are none.

    Raises BadData if a file that was found for a corrected name is also that of another name.
    """
    name_by_path: dict[str, str] = {}
    for name, path in corrections.items():
        other = path if path in exact_paths else name_by_path.setdefault(path, name)
        if other != name:
            raise BadData(f"there is no file for {name!r}: the most similar one, {path}, belongs to {other!r}",
                          "Add the file, or remove the line")
    if not corrections:
        return ()
    name, path = next(iter(corrections.items()))
    count = len(corrections)
    subject = f"{count} names differ from their files" if count > 1 else "1 name differs from its file"
    return (f"{subject} in letter case, suffix, Unicode form or separators, and the file was used: {name!r} is {path}"
            f"{', for example' if count > 1 else ''}.",)


def suggest_file(folder: Path, name: str, suffixes: tuple[str, ...]) -> str:
    """Return a clause on the closest match of a missing file: one of its name in a sub-folder, or a similar name."""
    wanted = normalise_name(posixpath.splitext(posixpath.basename(name.replace("\\", "/")))[0])
    files = list(_list_some_files(folder, suffixes))
    if not files:
        return "which holds no image"
    for file in files:
        if normalise_name(posixpath.splitext(posixpath.basename(file))[0]) == wanted:
            return f"but {file} exists"
    by_stem = {normalise_name(posixpath.splitext(posixpath.basename(file))[0]): file
               for file in files[:_MAX_COMPARED_NAMES]}
    matches = difflib.get_close_matches(wanted, by_stem, n=1, cutoff=0)
    return f"the most similar file is {by_stem[matches[0]]}" if matches else f"there is {files[0]}"


def _list_some_files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    """Yield paths of files below a folder, relative to it; a data set of millions of files is not read to its end."""
    num_visited = 0
    for parent, sub_folders, names in os.walk(folder):
        sub_folders.sort()
        for name in sorted(names):
            num_visited += 1
            if posixpath.splitext(name)[1].lower() in suffixes:
                yield Path(os.path.relpath(Path(parent, name), folder)).as_posix()
        if num_visited > _MAX_VISITED_FILES:
            return
