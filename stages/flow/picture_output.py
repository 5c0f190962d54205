"""Writes pictures to files: the first under the name of the output, further pages next to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from stages.data.contact_sheets import describe_escapes
from stages.data.picture_files import encode_pictures
from stages.flow.execution import Report
from stages.shards.disk import make_folder, replace_file


def write_pictures(path: Path, pictures: Sequence[np.ndarray]) -> list[Path]:
    """Write pictures (H, W, 3) uint8 and return the paths: look.png, look-2.png, ..., or one PDF with all of them.

    The suffix of `path` decides about the format; see `check_picture_path`. Existing files are replaced.
    """
    make_folder(path.absolute().parent)
    files = encode_pictures(pictures, path.suffix)
    paths = [build_page_path(path, number) for number in range(1, len(files) + 1)]
    for file_path, data in zip(paths, files, strict=True):
        replace_file(file_path, data)
    return paths


def report_escapes(names: Iterable[str], report: Report) -> None:
    """Report if letters of a name in a picture are drawn as escapes, because no font has them."""
    if note := describe_escapes(names):
        report.info(note)


def build_page_path(path: Path, number: int) -> Path:
    """Return the path of a page, which is counted from 1: look.png, look-2.png, ..."""
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def describe_leftover_pages(path: Path, num_pages: int) -> str:
    """Return a note on files that look like further pages, as an earlier, longer run leaves them; "" if there are none.
    """
    names: list[str] = []
    while (page := build_page_path(path, num_pages + len(names) + 1)).exists():
        names.append(page.name)
    if not names:
        return ""
    subject = f"{names[0]} is" if len(names) == 1 else f"{names[0]} to {names[-1]} are"
    return (f"{subject} not part of this run; an earlier run with more pages may have left "
            f"{'it' if len(names) == 1 else 'them'}.")
