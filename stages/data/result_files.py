"""Find the files of results that another tool wrote to a folder, by image id, and read them.

Names may differ from the ids in suffix, letter case and Unicode form where only one file can be meant.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import posixpath
import shlex
import stat
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stages.data.folders import IMAGE_SUFFIXES
from stages.data.name_forms import fold_name
from stages.data.name_pattern import ID_FIELD, PLAIN_NAMES, NamePattern, suggest_pattern
from stages.errors import BadData, IoFailed, MissingInput, explain_read_error

_MAX_LISTED_FILES = 3


@dataclass
class FileMatches:
    """The file of each image, as a path relative to the folder, and what did not match.

    `problems` are the reasons of images for which there are several files; images without a file are in neither
    dictionary. `unused` are the files that belong to no image, and `renamed` the ids whose file is spelled otherwise.
    """

    files: dict[str, str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)


def list_result_files(folder: Path) -> list[str]:
    """Return the files below a folder as sorted relative paths with '/', through links; hidden ones are skipped."""
    files, visited = [], set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(os.path.relpath(parent, folder)).as_posix()
        files += [posixpath.normpath(f"{relative}/{name}") for name in names if not name.startswith(".")]
    return sorted(files)


def match_files(ids: Sequence[str], files: Iterable[str], suffixes: Sequence[str],
                pattern: NamePattern = PLAIN_NAMES) -> FileMatches:
    """Match image ids with the files ID.SUFFIX, where the suffix is one of `suffixes` in any letter case.

    With a `pattern`, its {id} is the ID of this form.
    """
    by_stem, by_folded_stem, matches = defaultdict(list), defaultdict(list), FileMatches()
    for file in files:
        stem, suffix = posixpath.splitext(file)
        name = pattern.extract_name(stem, suffix)
        if suffix.lower() in suffixes and name is not None:
            by_stem[name].append(file)
            by_folded_stem[fold_name(name)].append(file)
        else:
            matches.unused.append(file)
    ids_by_folded_name = defaultdict(list)
    for item_id in ids:
        ids_by_folded_name[fold_name(item_id)].append(item_id)
    short_names = Counter(map(remove_image_suffix, ids))
    for item_id in ids:
        candidates = by_stem.get(item_id, [])
        if not candidates and short_names[remove_image_suffix(item_id)] == 1:
            candidates = by_stem.get(remove_image_suffix(item_id), [])
        if not candidates and len(ids_by_folded_name[fold_name(item_id)]) == 1:
            candidates = by_folded_stem.get(fold_name(item_id), [])
            matches.renamed += [item_id] if len(candidates) == 1 else []
        if len(candidates) > 1:
            matches.problems[item_id] = f"there are several files: {' and '.join(candidates)}"
        elif candidates:
            matches.files[item_id] = candidates[0]
    used = {*matches.files.values(), *(file for stem in by_stem.values() if len(stem) > 1 for file in stem)}
    matches.unused += [file for group in by_stem.values() for file in group if file not in used]
    matches.unused.sort()
    return matches


def remove_image_suffix(item_id: str) -> str:
    """Return an id without the suffix of an image file, if it has one."""
    stem, suffix = posixpath.splitext(item_id)
    return stem if suffix.lower() in IMAGE_SUFFIXES else item_id


def require_matches(matches: Mapping[str, object], ids: Sequence[str], files: Sequence[str], folder: Path,
                    expected: str) -> None:
    """Raise MissingInput if no image has a file; `expected` is the name of the first image's file."""
    if matches or not ids:
        return
    if not files:
        raise MissingInput("the folder is empty", "Pass the folder that holds the files to import", where=str(folder))
    names = {posixpath.basename(file): file for file in files}
    similar = difflib.get_close_matches(posixpath.basename(expected), list(names)[:5000], n=1, cutoff=0.3)
    example = names[similar[0]] if similar else files[0]
    pattern = suggest_pattern(ids, files)
    if pattern.startswith(f"{ID_FIELD}."):
        # Names that need no pattern: the command does not read files of this kind, or not one for a whole image.
        raise MissingInput(f"none of the {len(ids)} images of the index has a file that can be imported; there is "
                           f"{example}, but the command reads no files named ID{pattern.removeprefix(ID_FIELD)}",
                           "The help of the command lists the files that it reads; masks are read by `wsss import "
                           "masks`", where=str(folder))
    remedy = (f"Use --pattern {shlex.quote(pattern)}" if pattern else
              "Rename the files to ID.SUFFIX, with the ids that `wsss info` lists for the index, or give the form of "
              "their names, such as --pattern '{id}_mask.png'")
    raise MissingInput(f"none of the {len(ids)} images of the index has a file in this folder; for example, there is "
                       f"no {expected}, and the most similar name is {example}", remedy, where=str(folder))


def describe_unused_files(unused: Sequence[str]) -> str:
    """Return a sentence that counts and names the files that belong to no image; empty if there are none."""
    if not unused:
        return ""
    shown = ", ".join(unused[:_MAX_LISTED_FILES])
    more = f", ... ({len(unused)} in all)" if len(unused) > _MAX_LISTED_FILES else ""
    return f"Skipped {len(unused)} file{'s' * (len(unused) != 1)} that belong{'s' * (len(unused) == 1)} to no image " \
           f"of the index: {shown}{more}."


def read_result_file(path: Path, where: str) -> bytes:
    """Return the bytes of a file. Raises BadData if it can't be read, IoFailed if the system failed to read it."""
    try:
        # Reading a pipe or a device could block for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadData("this is not a regular file", "Replace it, or remove it from the folder", where=where)
        return path.read_bytes()
    except OSError as error:
        if io_error := explain_read_error(error, where):
            raise io_error from None
        raise BadData(f"the file can't be read ({error.strerror})", "Restore it, or remove it from the folder",
                      where=where) from None


def hash_files(folder: Path, files: Iterable[str], advance: Callable[[], None]) -> dict[str, str]:
    """Return the sha256 of each file, "" for one that can't be read; calls `advance` after each."""
    hashes = {}
    for file in files:
        try:
            hashes[file] = hashlib.sha256(read_result_file(folder / file, file)).hexdigest()
        except BadData:
            hashes[file] = ""
        advance()
    return hashes


def combine_hashes(hashes: Mapping[str, str]) -> str:
    """Return one sha256 for the names and contents of all files."""
    return hashlib.sha256(json.dumps(sorted(hashes.items())).encode()).hexdigest()


def read_unchanged_file(folder: Path, file: str, sha256: str) -> bytes:
    """Return the bytes of a file. Raises IoFailed if it has changed since it was hashed, BadData as above."""
    data = read_result_file(folder / file, file)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise IoFailed("has changed during the import", "Run the same command again when the file is complete",
                       where=str(folder / file))
    return data
