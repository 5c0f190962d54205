"""Import webdataset's tar archives, in which the files of a sample follow each other and differ by their suffix.

The archives are not unpacked. The index stores the offset of each image in its archive, so reading an image takes a
single seek, in any order.
"""

from __future__ import annotations

import json
import posixpath
import shlex
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.data.folders import IMAGE_SUFFIXES, find_common_root, has_image_suffix
from stages.data.records import ImageRecord, Listing, describe_count, infer_supervision
from stages.data.tables import check_id, check_text
from stages.errors import BadData, MissingInput

_TEXT_SUFFIXES = (".txt", ".json")


def list_webdataset(archives: Sequence[Path]) -> Listing:
    """List the images in tar archives (not compressed); ids are ARCHIVE/KEY, without the archive's suffix.

    The caption is KEY.txt, else "caption" in KEY.json. Samples without an image are counted and skipped. Raises
    MissingInput for a missing archive and if there is no image, BadData for a file that is not a tar archive or is
    truncated, and for an archive that is passed twice.
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
        _check_archive(archive)
        if archive_by_path.setdefault(path, archive) is not archive:
            raise BadData("the archive is passed twice", "Pass each archive once", where=str(archive))
        samples = [_build_record(path, key, files) for key, files in _read_samples(archive)]
        records += [record for record in samples if record is not None]
        num_skipped += sum(record is None for record in samples)
    if not records:
        raise MissingInput("there is no image in the archives",
                           "Name the image and the caption of a sample alike up to the first dot (000.jpg, 000.txt)",
                           where=str(archives[0]))
    notes = describe_count(sum(not record.captions for record in records), len(records), "have no caption")
    notes += (f"Skipped {num_skipped} sample{'s' if num_skipped > 1 else ''} without an image.",) if num_skipped else ()
    return Listing(root, ("background",), tuple(records), notes, infer_supervision(records))


_Files = dict[str, tuple[str, int, int, str]]
# The first bytes of a compressed archive, its program and its suffixes.
_COMPRESSED = (
    (b"\x1f\x8b", "gunzip --keep", (".tar.gz", ".tgz")), (b"BZh", "bunzip2 --keep", (".tar.bz2", ".tbz2")),
    (b"\xfd7zXZ", "unxz --keep", (".tar.xz", ".txz")), (b"\x28\xb5\x2f\xfd", "unzstd", (".tar.zst", ".tzst")))


def _check_archive(archive: Path) -> None:
    """Raise BadData for a compressed archive, with the command that unpacks it, and for a file not named .tar."""
    with archive.open("rb") as stream:
        start = stream.read(8)
    for signature, command, suffixes in _COMPRESSED:
        if start.startswith(signature):
            stem = next((archive.name.removesuffix(suffix) for suffix in suffixes if archive.name.endswith(suffix)), "")
            # gunzip refuses a file without its suffix, such as a compressed archive that is named .tar.
            unpack = (f"{command} {shlex.quote(str(archive))}" if stem else
                      f"{command.split()[0]} < {shlex.quote(str(archive))} > {shlex.quote(archive.stem)}-unpacked.tar")
            raise BadData("the archive is compressed, so single images can't be read from it",
                          f"Unpack it to an uncompressed .tar with `{unpack}`", where=str(archive))
    if archive.suffix != ".tar":
        remedy = "Pass uncompressed archives whose names end in .tar"
        if start.startswith(b"PK"):
            remedy = f"Unpack it with `unzip {shlex.quote(str(archive))}`, and use `wsss index folder` or `index table`"
        raise BadData("this is not a .tar archive", remedy, where=str(archive))


def _read_samples(archive: Path) -> Iterator[tuple[str, _Files]]:
    """Yield (key, {suffix: (name, offset, size, text)}) in archive order; `text` is read for captions only."""
    key, files = "", _Files()
    try:
        with tarfile.open(archive, "r:") as opened:
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
                text = ""
                if suffix in _TEXT_SUFFIXES and (stream := opened.extractfile(member)):
                    text = stream.read().decode("utf-8", "replace")
                key = member_key
                files[suffix] = (member.name, member.offset_data, member.size, text)
    except (tarfile.TarError, EOFError) as error:
        raise BadData(f"this is not a tar archive, or it is truncated ({error})", "Download or copy it again",
                      where=str(archive)) from None
    if files:
        yield key, files


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
    name, offset, size, _ = image
    image_id = check_id(f"{archive.removesuffix('.tar')}/{key}", archive)
    caption = _read_caption(files, f"{archive}/{name}")
    return ImageRecord(image_id, f"{archive}/{name}", None, None, (caption,) if caption else (), (offset, size))


def _read_caption(files: _Files, where: str) -> str:
    if ".txt" in files:
        return " ".join(check_text(files[".txt"][3], "caption", where).split())
    if ".json" not in files:
        return ""
    try:
        content = json.loads(files[".json"][3])
    except (ValueError, RecursionError) as error:
        raise BadData(f"the JSON file of this sample can't be read ({error})", "Correct it in the archive",
                      where=where) from None
    caption = content.get("caption") if isinstance(content, dict) else None
    return " ".join(check_text(caption, "caption", where).split()) if isinstance(caption, str) else ""
