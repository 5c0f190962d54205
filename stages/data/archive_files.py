"""Recognise archives and compressed files that are passed in place of their contents, and say how to unpack them."""

from __future__ import annotations

import shlex
from pathlib import Path

from stages.errors import BadData

START_SIZE = 512  # bytes that tell what a file is
_TAR_MARK, _TAR_MARK_POSITION = b"ustar", 257
_PACKED_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst")
# The first bytes of compressed files, the name of the compression, the program that unpacks them, and its suffix.
_COMPRESSIONS = ((b"\x1f\x8b", "gzip", "gunzip --keep", ".gz"), (b"BZh", "bzip2", "bunzip2 --keep", ".bz2"),
                 (b"\xfd7zXZ", "xz", "unxz --keep", ".xz"), (b"\x28\xb5\x2f\xfd", "zstd", "unzstd", ".zst"))
# The first bytes of archives of files, what they are called, and the command that unpacks {file} to {folder}.
_ARCHIVES = ((b"PK\x03\x04", "a zip archive", "unzip {file} -d {folder}"),
             (b"PK\x05\x06", "an empty zip archive", "unzip {file} -d {folder}"),
             (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x {file} -o{folder}"),
             (b"Rar!\x1a\x07", "a RAR archive", "unrar x {file} {folder}/"))
_UNTAR = "mkdir {folder} && tar -xf {file} -C {folder}"
# The first member of spreadsheets and text documents, which are zip archives too.
_DOCUMENT_MEMBERS = (b"[Content_Types].xml", b"_rels/", b"docProps/", b"xl/", b"mimetype")
_MEMBER_NAME_POSITION = 30


def check_not_archive(path: Path, start: bytes | None = None) -> None:
    """Raise BadData for an archive or a compressed file, with the command that unpacks it.

    `start` are the first START_SIZE bytes of the file, or more; None: they are read. Office documents and .npz files,
    which are zip archives too, are no archives here.
    """
    path = Path(path)
    if start is None:
        with path.open("rb") as stream:
            start = stream.read(START_SIZE)
    kind, command = _describe_archive(path, start) or ("", "")
    if kind:
        raise BadData(f"this is {kind}, which has to be unpacked",
                      f"Unpack it with `{command}`, and pass what is in it", where=str(path))


def _describe_archive(path: Path, start: bytes) -> tuple[str, str] | None:
    """Return what an archive is, and the command that unpacks it; None for another file."""
    for signature, kind, command in _ARCHIVES:
        if start.startswith(signature) and not _is_document(path, start):
            return kind, _fill_in(command, path)
    if start[_TAR_MARK_POSITION:].startswith(_TAR_MARK):
        return "a tar archive", _fill_in(_UNTAR, path)
    for signature, name, program, suffix in _COMPRESSIONS:
        if start.startswith(signature):
            if path.name.lower().endswith(_PACKED_TAR_SUFFIXES):
                return f"a tar archive compressed with {name}", _fill_in(_UNTAR, path)
            return f"compressed with {name}", build_unpack_command(path, program, suffix)
    return None


def build_unpack_command(path: Path, program: str, suffix: str) -> str:
    """Return the command that unpacks a compressed file; programs refuse a file that lacks their suffix."""
    if path.name.endswith(suffix):
        return f"{program} {shlex.quote(str(path))}"
    unpacked = path.with_name(f"{path.stem}-unpacked{path.suffix}")
    return f"{program.split()[0]} < {shlex.quote(str(path))} > {shlex.quote(str(unpacked))}"


def _is_document(path: Path, start: bytes) -> bool:
    return path.suffix.lower() == ".npz" or start[_MEMBER_NAME_POSITION:].startswith(_DOCUMENT_MEMBERS)


def _fill_in(command: str, path: Path) -> str:
    """Return a command that unpacks an archive to a folder next to it, of the same name."""
    suffixes = (*_PACKED_TAR_SUFFIXES, path.suffix.lower())
    suffix = next((suffix for suffix in suffixes if suffix and path.name.lower().endswith(suffix)), "")
    folder = path.with_name(path.name[:len(path.name) - len(suffix)] if suffix else f"{path.name}-unpacked")
    return command.format(file=shlex.quote(str(path)), folder=shlex.quote(str(folder)))
