"""List the files in a folder of images that an importer did not use, so that none is overlooked."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.data.folders import has_image_suffix

# The first bytes of image formats, also of those that need another program: JPEG, PNG, GIF, BMP, TIFF, JPEG 2000, PSD.
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"8BPS")
_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"avif", b"avis", b"crx ")  # at byte 8 of HEIC, AVIF, CR3
_MAX_FILES = 200_000  # that are looked at; more are not accounted for
_MAX_OPENED = 1000  # files without a known suffix that are opened


@dataclass(frozen=True)
class SkippedFiles:
    """The files below `folder` that were not used, as paths below it, sorted; `is_complete` if all were looked at.

    `unlisted` have the suffix of an image, `unknown` only its first bytes; `others` counts the remaining by suffix.
    """

    folder: Path
    unlisted: tuple[str, ...]
    unknown: tuple[str, ...]
    others: tuple[tuple[str, int], ...]
    is_complete: bool = True


def find_skipped_files(folder: Path, used: Collection[Path], ignored_folders: Collection[Path] = ()) -> SkippedFiles:
    """Return the files below `folder` that are not `used` (absolute paths); hidden ones and links are not followed."""
    used_paths = {os.path.normpath(path) for path in used}
    ignored = {os.path.normpath(Path(path).absolute()) for path in ignored_folders}
    unlisted, unknown, others = [], [], Counter[str]()
    is_complete, num_opened = True, 0
    for number, path in enumerate(_iterate_files(os.path.normpath(folder.absolute()), ignored)):
        if number >= _MAX_FILES:
            is_complete = False
            break
        if path in used_paths:
            continue
        name = Path(os.path.relpath(path, folder.absolute())).as_posix()
        if has_image_suffix(name):
            unlisted.append(name)
        elif num_opened < _MAX_OPENED and _has_image_signature(path):
            unknown.append(name)
        else:
            others[posixpath.splitext(name)[1].lower() or "no suffix"] += 1
        num_opened += not has_image_suffix(name)
    return SkippedFiles(folder, tuple(sorted(unlisted)), tuple(sorted(unknown)), tuple(others.most_common()),
                        is_complete)


def _iterate_files(folder: str, ignored: Collection[str]) -> Iterator[str]:
    for parent, sub_folders, files in os.walk(folder):
        sub_folders[:] = sorted(name for name in sub_folders
                                if not name.startswith(".") and f"{parent}{os.sep}{name}" not in ignored)
        yield from (f"{parent}{os.sep}{name}" for name in sorted(files) if not name.startswith("."))


def _has_image_signature(path: str) -> bool:
    """Return whether a file begins as an image does; False for one that can't be read, or is no regular file."""
    try:
        # Opening a pipe would wait for a writer.
        if not Path(path).is_file():
            return False
        with Path(path).open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    is_webp = start[:4] == b"RIFF" and start[8:12] == b"WEBP"
    return start.startswith(_SIGNATURES) or is_webp or (start[4:8] == b"ftyp" and start[8:12] in _BRANDS)


def describe_skipped_files(skipped: SkippedFiles, source: str) -> tuple[str, ...]:
    """Return one sentence for each kind of file that was skipped; `source` names what lists the images."""
    sentences = []
    if skipped.unlisted:
        sentences.append(f"{_count_files(skipped.unlisted)} in {skipped.folder} {_be(skipped.unlisted)} not in "
                         f"{source} ({_list_names(skipped.unlisted)}).")
    if skipped.unknown:
        it_has = "it has" if len(skipped.unknown) == 1 else "they have"
        sentences.append(f"{_count_files(skipped.unknown)} in {skipped.folder} {_be(skipped.unknown)} skipped although "
                         f"{it_has} the contents of an image: the suffix or format is not supported "
                         f"({_list_names(skipped.unknown)}).")
    if skipped.others:
        total = sum(count for _, count in skipped.others)
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in skipped.others[:6])
        more = ", ..." if len(skipped.others) > 6 else ""
        noun = "file" if total == 1 else "files"
        sentences.append(f"{total:,} other {noun} in {skipped.folder} {'is' if total == 1 else 'are'} not "
                         f"{'an image' if total == 1 else 'images'} ({kinds}{more}).")
    if not skipped.is_complete:
        sentences.append(f"Only the first {_MAX_FILES:,} files in {skipped.folder} were looked at.")
    return tuple(sentences)


def _count_files(names: tuple[str, ...]) -> str:
    return f"{len(names):,} file{'s' if len(names) > 1 else ''}"


def _be(names: tuple[str, ...]) -> str:
    return "are" if len(names) > 1 else "is"


def _list_names(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
