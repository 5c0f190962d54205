"""Importer of webdataset's tar archives: files of one sample stand behind each other and differ by their suffix.

The archives are not unpacked: the index keeps where in its archive each image begins, so that reading one is a single
seek, in whatever order.
"""

from __future__ import annotations

import json
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from stages.data.folders import IMAGE_SUFFIXES, common_root
from stages.data.records import Listing, Record, counted, supervision_of
from stages.data.tables import check_id, check_text
from stages.errors import BadData, MissingInput

_TEXTS = (".txt", ".json")


def list_webdataset(archives: Sequence[Path]) -> Listing:
    """Return the listing of tar archives (not compressed); ids are ARCHIVE/KEY, without the archive's suffix.

    The caption is KEY.txt, else "caption" in KEY.json. Samples without an image are counted and left out. Raises
    MissingInput for a missing archive or no image at all, BadData for what is no tar archive or is cut short, and for
    two archives of the same name.
    """
    for archive in archives:
        if not archive.is_file():
            raise MissingInput("no such file", "give tar archives", where=str(archive))
    root = common_root(*(archive.parent for archive in archives))
    records: list[Record] = []
    without = 0
    names: dict[str, Path] = {}
    for archive in archives:
        place = Path(archive).absolute().relative_to(root).as_posix()
        if archive.suffix != ".tar" or names.setdefault(place, archive) is not archive:
            raise BadData("is no .tar archive" if archive.suffix != ".tar" else "is given twice", where=str(archive))
        found = [_record(place, key, files) for key, files in _samples(archive)]
        records += [record for record in found if record is not None]
        without += sum(record is None for record in found)
    if not records:
        raise MissingInput("no image in the archives", "an image and its caption share the name before the first dot",
                           where=str(archives[0]))
    notes = counted(sum(not record.captions for record in records), len(records), "have no caption")
    notes += (f"{without} samples have no image and are left out",) if without else ()
    return Listing(root, ("background",), tuple(records), notes, supervision_of(records))


_Files = dict[str, tuple[str, int, int, str]]


def _samples(archive: Path) -> Iterator[tuple[str, _Files]]:
    """Yield (key, {suffix: (name, offset, size, text)}) of an archive in its order; `text` is that of a caption."""
    key, files = "", _Files()
    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                if not member.isfile():
                    continue
                folder, name = posixpath.split(member.name)
                stem, _, suffix = name.partition(".")
                own, suffix = posixpath.join(folder, stem).removeprefix("./"), f".{suffix.lower()}"
                if own != key and files:
                    yield key, files
                    files = {}
                text = ""
                if suffix in _TEXTS and (stream := opened.extractfile(member)):
                    text = stream.read().decode("utf-8", "replace")
                key = own
                files[suffix] = (member.name, member.offset_data, member.size, text)
    except (tarfile.TarError, EOFError) as error:
        raise BadData(f"no tar archive, or cut short ({error})", "fetch or copy it again", where=str(archive)) from None
    if files:
        yield key, files


def _record(place: str, key: str, files: _Files) -> Record | None:
    image = next((files[suffix] for suffix in IMAGE_SUFFIXES if suffix in files), None)
    if image is None:
        return None
    name, offset, size, _ = image
    item_id = check_id(f"{place.removesuffix('.tar')}/{key}", place)
    caption = _caption(files, f"{place}/{name}")
    return Record(item_id, f"{place}/{name}", None, None, (caption,) if caption else (), (offset, size))


def _caption(files: _Files, where: str) -> str:
    if ".txt" in files:
        return " ".join(check_text(files[".txt"][3], "caption", where).split())
    if ".json" not in files:
        return ""
    try:
        told = json.loads(files[".json"][3])
    except (ValueError, RecursionError) as error:
        raise BadData(f"its JSON can't be read ({error})", where=where) from None
    caption = told.get("caption") if isinstance(told, dict) else None
    return " ".join(check_text(caption, "caption", where).split()) if isinstance(caption, str) else ""
