"""Import webdataset's tar archives, in which the files of a sample follow each other and differ by their suffix.

The archives are not unpacked. The index stores the offset of each image in its archive, so reading an image takes a
single seek, in any order. Of a compressed archive the index stores the images themselves (`--pack`).
"""

from __future__ import annotations

import json
import posixpath
import shlex
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from stages.data.archive_files import build_unpack_command
from stages.data.compressed_tar import ARCHIVE_ERRORS, is_readable, open_compressed_tar
from stages.data.folders import IMAGE_SUFFIXES, find_common_root, has_image_suffix
from stages.data.records import ImageRecord, Listing, describe_count, infer_supervision
from stages.data.tables import check_id, check_text
from stages.errors import BadData, MissingInput

_TEXT_SUFFIXES = (".txt", ".json")
_MAX_TEXT_BYTES, _MAX_IMAGE_BYTES = 1 << 24, 1 << 29


class _Member(NamedTuple):
    """A file of a sample: its name, its place in the archive, the text of a caption, the bytes of a packed image."""

    name: str
    offset: int
    size: int
    text: str = ""
    data: bytes | None = None


_Files = dict[str, _Member]


def list_webdataset(archives: Sequence[Path], *, packs_images: bool = False) -> Listing:
    """List the images in tar archives; ids are ARCHIVE/KEY, without the archive's suffix.

    The caption is KEY.txt, else "caption" in KEY.json. Samples without an image are counted and skipped. Compressed
    archives are read if the index stores the images (`packs_images`): then the records have their bytes. Raises
    MissingInput for a missing archive and if there is no image, BadData for a file that is not a tar archive or is
    truncated, for an archive that is passed twice, and for two images with one id.
    """
    for archive in archives:
        if not archive.is_file():
            raise MissingInput("there is no such file", "Pass the tar archives of a webdataset", where=str(archive))
    root = find_common_root(*(archive.parent for archive in archives))
    records: list[ImageRecord] = []
    num_skipped = 0
    archive_by_path: dict[str, Path] = {}
    for archive in archives:
        path = Path(archive).absolute().relative_to(root).as_posix()
        is_compressed = _check_archive(archive, packs_images=packs_images)
        if archive_by_path.setdefault(path, archive) is not archive:
            raise BadData("the archive is passed twice", "Pass each archive once", where=str(archive))
        samples = [_build_record(path, key, files)
                   for key, files in _read_samples(archive, is_compressed=is_compressed)]
        records += [record for record in samples if record is not None]
        num_skipped += sum(record is None for record in samples)
    _check_ids(records)
    if not records:
        raise MissingInput("there is no image in the archives",
                           "Name the image and the caption of a sample alike up to the first dot (000.jpg, 000.txt)",
                           where=str(archives[0]))
    notes = describe_count(sum(not record.captions for record in records), len(records), "have no caption")
    notes += (f"Skipped {num_skipped} sample{'s' if num_skipped > 1 else ''} without an image.",) if num_skipped else ()
    return Listing(root, ("background",), tuple(records), notes, infer_supervision(records))


# The first bytes of a compressed archive, its program and its suffixes.
_COMPRESSED = (
    (b"\x1f\x8b", "gunzip --keep", (".tar.gz", ".tgz")), (b"BZh", "bunzip2 --keep", (".tar.bz2", ".tbz2")),
    (b"\xfd7zXZ", "unxz --keep", (".tar.xz", ".txz")), (b"\x28\xb5\x2f\xfd", "unzstd", (".tar.zst", ".tzst")))
_SUFFIXES = (".tar", *(suffix for _, _, suffixes in _COMPRESSED for suffix in suffixes))


def _check_archive(archive: Path, *, packs_images: bool) -> bool:
    """Return whether an archive is compressed.

    Raises BadData for a compressed archive that can't be read, with the command that unpacks it, and for a file that is
    not named .tar.
    """
    with archive.open("rb") as stream:
        start = stream.read(8)
    for signature, command, suffixes in _COMPRESSED:
        if start.startswith(signature):
            if packs_images and is_readable(start):
                return True
            suffix = next((suffix for suffix in suffixes if archive.name.endswith(suffix)), suffixes[0])
            pack = "add --pack to store its images in the index, or " if is_readable(start) else ""
            raise BadData("the archive is compressed, so single images can't be read from it",
                          f"{pack}unpack it to an uncompressed .tar with "
                          f"`{build_unpack_command(archive, command, suffix)}`", where=str(archive))
    if archive.suffix != ".tar":
        remedy = "Pass archives whose names end in .tar"
        if start.startswith(b"PK"):
            remedy = f"Unpack it with `unzip {shlex.quote(str(archive))}`, and use `wsss index folder` or `index table`"
        raise BadData("this is not a .tar archive", remedy, where=str(archive))
    return False


def _check_ids(records: Sequence[ImageRecord]) -> None:
    path_by_id: dict[str, str] = {}
    for record in records:
        other = path_by_id.setdefault(record.id, record.path)
        if other is not record.path:
            raise BadData(f"the images {other} and {record.path} have the same id {record.id!r}",
                          "Rename one of the archives, or one of the members", where=record.path)


def _read_samples(archive: Path, *, is_compressed: bool) -> Iterator[tuple[str, _Files]]:
    """Yield (key, {suffix: member}) in archive order; of a compressed archive with the bytes of images."""
    key, files = "", _Files()
    try:
        with _open(archive, is_compressed=is_compressed) as opened:
            for member in opened:
                _check_member(member, archive)
                if not member.isfile():
                    continue
                folder, name = posixpath.split(member.name)
                stem, _, suffix = name.partition(".")
                member_key, suffix = posixpath.join(folder, stem).removeprefix("./"), f".{suffix.lower()}"
                if member_key != key and files:
                    yield key, files
                    files = {}
                key = member_key
                files[suffix] = _read_member(opened, member, suffix, archive, reads_image=is_compressed)
    except (*ARCHIVE_ERRORS, OSError) as error:
        if isinstance(error, OSError) and (error.errno is not None or not is_compressed):
            raise
        raise BadData(f"this is not a tar archive, or it is truncated ({error})", "Download or copy it again",
                      where=str(archive)) from None
    if files:
        yield key, files


def _open(archive: Path, *, is_compressed: bool) -> AbstractContextManager[tarfile.TarFile]:
    return open_compressed_tar(archive) if is_compressed else tarfile.open(archive, "r:")


def _read_member(opened: tarfile.TarFile, member: tarfile.TarInfo, suffix: str, archive: Path, *,
                 reads_image: bool) -> _Member:
    """Return a file of a sample, with the text of a caption and, if `reads_image`, the bytes of an image."""
    position = member.name, member.offset_data, member.size
    is_text, is_image = suffix in _TEXT_SUFFIXES, reads_image and suffix in IMAGE_SUFFIXES
    if not (is_text or is_image):
        return _Member(*position)
    limit = _MAX_TEXT_BYTES if is_text else _MAX_IMAGE_BYTES
    if member.size > limit:
        noun = "a caption" if is_text else "an image"
        raise BadData(f"the member {member.name!r} has {member.size:,} bytes, but {noun} may have {limit:,}",
                      "Make the archive again without it", where=str(archive))
    stream = opened.extractfile(member)
    data = stream.read() if stream else b""
    return _Member(*position, text=data.decode("utf-8", "replace")) if is_text else _Member(*position, data=data)


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    """Raise BadData for a member whose name leads out of the archive, and for an image that is a link or a device."""
    name = member.name
    if posixpath.isabs(name) or ".." in name.split("/") or "\0" in name:
        raise BadData(f"the member {name!r} has a path that leads out of the archive",
                      "Nothing was read from it. Make the archive again with relative names", where=str(archive))
    if not (member.isfile() or member.isdir()) and has_image_suffix(name):
        what = f"a link to {member.linkname!r}" if member.issym() or member.islnk() else "a device or a pipe"
        raise BadData(f"the member {name!r} is {what}, not an image",
                      "Make the archive again with the files themselves (`tar --dereference --hard-dereference`)",
                      where=str(archive))


def _build_record(archive: str, key: str, files: _Files) -> ImageRecord | None:
    """Build the record of a sample; None if it has no image."""
    image = next((files[suffix] for suffix in IMAGE_SUFFIXES if suffix in files), None)
    if image is None:
        return None
    suffix = next((suffix for suffix in _SUFFIXES if archive.endswith(suffix)), "")
    image_id = check_id(f"{archive.removesuffix(suffix)}/{key}", archive)
    path = f"{archive}/{image.name}"
    caption = _read_caption(files, path)
    return ImageRecord(image_id, path, captions=(caption,) if caption else (), data=image.data,
                       byte_range=(image.offset, image.size) if image.data is None else None)


def _read_caption(files: _Files, where: str) -> str:
    if ".txt" in files:
        return " ".join(check_text(files[".txt"].text, "caption", where).split())
    if ".json" not in files:
        return ""
    try:
        content = json.loads(files[".json"].text)
    except (ValueError, RecursionError) as error:
        raise BadData(f"the JSON file of this sample can't be read ({error})", "Correct it in the archive",
                      where=where) from None
    caption = content.get("caption") if isinstance(content, dict) else None
    return " ".join(check_text(caption, "caption", where).split()) if isinstance(caption, str) else ""
