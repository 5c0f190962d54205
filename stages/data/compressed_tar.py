"""Read compressed tar archives from start to end; single members can't be found in them without reading all before."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.errors import BadData

# What reading a damaged archive raises: gzip, bzip2 and xz have errors of their own.
ARCHIVE_ERRORS = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
# Photographs hardly compress, and captions by 20 at most: an archive beyond this is made to fill memory or disk.
_MAX_RATIO, _MIN_LIMIT = 100, 1 << 30
_CHUNK_SIZE = 1 << 16


def is_readable(start: bytes) -> bool:
    """Return whether a file that begins with `start` is compressed in a way that `open_compressed_tar` reads."""
    return any(start.startswith(signature) for signature in _OPENERS)


@contextmanager
def open_compressed_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive, whose members have to be read in their order; at the end its checksum is verified.

    Raises BadData, here or while members are read, if it unpacks to over 100 times its size and over 1 GiB; one of
    ARCHIVE_ERRORS or OSError if it is damaged or truncated.
    """
    with archive.open("rb") as file:
        start = file.read(8)
        opener = next(opener for signature, opener in _OPENERS.items() if start.startswith(signature))
        file.seek(0)
        limit = max(_MIN_LIMIT, _MAX_RATIO * archive.stat().st_size)
        with opener(file, "rb") as unpacked:
            stream = _LimitedStream(unpacked, limit, archive)
            with tarfile.open(fileobj=stream, mode="r|") as opened:
                yield opened
            while stream.read(_CHUNK_SIZE):
                pass  # the checksum is at the end, after the padding of the archive


class _LimitedStream(io.RawIOBase):
    """Reads a stream of unpacked bytes up to a limit."""

    def __init__(self, stream: Any, limit: int, archive: Path) -> None:
        self._stream, self._limit, self._archive, self._num_bytes = stream, limit, archive, 0

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raises BadData beyond the limit."""
        data = self._stream.read(size)
        self._num_bytes += len(data)
        if self._num_bytes > self._limit:
            raise BadData(f"the archive unpacks to more than {self._limit:,} bytes, {_MAX_RATIO} times its size or "
                          "more, as no archive of images does", "Check where it comes from", where=str(self._archive))
        return data
