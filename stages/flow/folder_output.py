"""Writes the files of an output folder, and leaves those alone that are there already with equal contents."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.errors import CannotCreate, UsageError
from stages.flow.execution import Output, Report
from stages.shards.disk import link_file, make_folder, replace_file, replace_file_with_chunks

_CHUNK_BYTES = 1 << 20


class FolderOutput:
    """Writes files below the output folder and counts them; names are relative, with / between folders."""

    def __init__(self, output: Output, report: Report) -> None:
        self._output, self._report = output, report
        self.num_written = self.num_up_to_date = 0

    def write(self, name: str, data: bytes, *, is_listed: bool = True) -> None:
        """Write a file, and print its path if `is_listed`. Raises CannotCreate if another one is there."""
        path = self._output.path / name
        is_equal = path.is_file() and path.read_bytes() == data
        self._check_existing(path, is_equal=is_equal)
        if not is_equal and not self._output.dry_run:
            make_folder(path.parent)
            replace_file(path, data)
        self._count(path, is_equal=is_equal, is_listed=is_listed)

    def write_chunks(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write a file that is too large for the memory. Raises CannotCreate if another one is there."""
        path = self._output.path / name
        existing = _compute_digest(path) if path.is_file() else None
        digest = hashlib.sha256()
        hashed = _hash_chunks(chunks, digest)
        if self._output.dry_run:
            for _ in hashed:
                pass
            self._check_existing(path, is_equal=existing == digest.digest())
        else:
            make_folder(path.parent)
            replace_file_with_chunks(path, hashed, lambda: self._should_replace(path, existing, digest.digest()))
        self._count(path, is_equal=existing == digest.digest(), is_listed=True)

    def link(self, name: str, target: Path) -> None:
        """Write a symbolic link to the absolute path of `target`. Raises CannotCreate if something else is there."""
        path, absolute = self._output.path / name, os.path.abspath(target)
        is_equal = path.is_symlink() and str(path.readlink()) == absolute
        self._check_existing(path, is_equal=is_equal)
        if not is_equal and not self._output.dry_run:
            make_folder(path.parent)
            link_file(path, absolute)
        self._count(path, is_equal=is_equal, is_listed=False)

    def _should_replace(self, path: Path, existing: bytes | None, digest: bytes) -> bool:
        self._check_existing(path, is_equal=existing == digest)
        return existing != digest

    def _check_existing(self, path: Path, *, is_equal: bool) -> None:
        if not is_equal and os.path.lexists(path) and not self._output.force:
            raise CannotCreate("the file already exists with different contents",
                               "Use --force to replace it, or choose another -o", where=str(path))

    def _count(self, path: Path, *, is_equal: bool, is_listed: bool) -> None:
        self.num_up_to_date += is_equal
        self.num_written += not is_equal and not self._output.dry_run
        if self._output.dry_run and is_listed:
            self._report.info(f"{path} is up to date." if is_equal else f"Would write {path}.")
        if is_listed and (is_equal or not self._output.dry_run):
            self._report.print_path(path)


def check_file_ids(ids: Iterable[str], folder: Path) -> None:
    """Raise UsageError for an image id that would leave the folder if it were a file name."""
    for item_id in ids:
        if ".." in Path(item_id).parts or Path(item_id).is_absolute():
            raise UsageError(f"the image id {item_id} cannot be a file name in {folder}",
                             "Index the images with other ids")


def _hash_chunks(chunks: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _compute_digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.digest()
