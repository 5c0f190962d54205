"""Writes pictures to files: the first under the name of the output, further pages next to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.data.picture_files import encode_pictures
from stages.shards.disk import make_folder, replace_file


def write_pictures(path: Path, pictures: Sequence[np.ndarray]) -> list[Path]:
    """Write pictures (H, W, 3) uint8 and return the paths: look.png, look-2.png, ..., or one PDF with all of them.

    The suffix of `path` decides about the format; see `check_picture_path`. Existing files are replaced.
    """
    make_folder(path.absolute().parent)
    files = encode_pictures(pictures, path.suffix)
    paths = [path, *(path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(2, len(files) + 1))]
    for file_path, data in zip(paths, files, strict=True):
        replace_file(file_path, data)
    return paths
