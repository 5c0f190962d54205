"""Finds the index of a run: the one it was made from, or any other index of the same images and classes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from stages.errors import BadData, MissingInput
from stages.shards import (
    Run,
    Shard,
    applies_exif,
    check_same_classes,
    describe_image_difference,
    find_shard_files,
    is_identified,
    parse_shard_name,
    read_image_records,
)

_FileKey = tuple[Path, int, int]
_OTHER_INDEX = ("Give the original index with --index, or one of the same images (`wsss eval` also takes masks with "
                "--truth DIR); or make the shard again")


@dataclass(frozen=True)
class _IndexedImage:
    """An image in an index of one or more shards: its shard, its record, and whether that index rejected it."""

    path: Path
    record: np.ndarray
    is_rejected: bool


def find_index(source: Shard, index_argument: str | None) -> Path:
    """Return the index shard of the images of a shard: itself, the one that it was made from, or one with its images.

    Looked for in `index_argument` (a shard or a folder), else at the recorded path. Raises MissingInput if there is no
    index, BadData if it has other images or classes, or if the images are in several of its shards.
    """
    paths = _find_index_shards(source, index_argument)
    if len(paths) > 1:
        folder = paths[0].parent
        raise BadData(f"its images are in {len(paths)} shards of the index {folder}",
                      f"Merge these with `wsss merge {folder} -o index.h5`, and add --index index.h5",
                      where=str(source.path))
    return paths[0]


def find_indexes(shards: Iterable[Shard], index_argument: str | None) -> list[Path]:
    """Return the index shards that these shards were made from, else all of an index with their images.

    Without duplicates. Raises as `find_index`.
    """
    paths = set()
    for shard in shards:
        matches = _find_index_shards(shard, index_argument)
        is_original = len(matches) == 1 and _read_index_digest(_build_key(matches[0])) == shard.index_digest
        paths |= set(matches if is_original else _list_candidates(shard, index_argument))
    return sorted(paths)


def check_same_images(index: Run, run: Run) -> None:
    """Raise BadData if an image that both an index and a run contain differs between them.

    Images without a checksum, and runs of format 1.0, are not compared.
    """
    index_digests = {shard.digest for shard in index.shards}
    images = None
    for shard in run.shards:
        records = None if shard.index_digest in index_digests else read_image_records(shard)
        if records is None:
            continue
        images = images or _read_images(tuple(_build_key(index_shard.path) for index_shard in index.shards))
        for item_id, record in zip(shard.ids, records, strict=True):
            image = images.get(item_id)
            if image is not None and is_identified(record) and is_identified(image.record):
                _check_image(shard, item_id, record, image)


def has_same_tags(index: Run, run: Run) -> bool:
    """Return whether a run was made from the same images and tags as an index, in the same order."""
    records, own_records = index.read_image_records(), run.read_image_records()
    return (records is not None and own_records is not None and tuple(index.ids) == tuple(run.ids)
            and np.array_equal(records, own_records))


def _find_index_shards(source: Shard, index_argument: str | None) -> list[Path]:
    if source.kind == "index":
        return [source.path]
    candidates = _list_candidates(source, index_argument)
    for candidate in candidates:
        if _read_index_digest(_build_key(candidate)) == source.index_digest:
            return [candidate]
    return _match_images(source, candidates)


def _list_candidates(source: Shard, index_argument: str | None) -> list[Path]:
    """Return the shards of --index, or of the recorded index: also those of its folder if it was a part of a run."""
    if index_argument:
        return find_shard_files(index_argument)
    recorded = Path(os.path.normpath(source.path.parent / source.attribute("index_path")))
    if parse_shard_name(recorded) is not None and recorded.parent.is_dir():
        siblings = sorted(file for file in recorded.parent.iterdir()
                          if (name := parse_shard_name(file)) is not None and name[0] == "index")
        is_intact = recorded in siblings and _read_index_digest(_build_key(recorded)) == source.index_digest
        if siblings and not is_intact:
            return siblings
    if not recorded.exists():
        raise MissingInput(f"its index {recorded} does not exist",
                           "Give its new path with --index FILE, or an index of the same images and classes (make one "
                           "with `wsss index`); `wsss eval` also takes masks with --truth DIR", where=str(source.path))
    return [recorded]


def _match_images(source: Shard, candidates: Sequence[Path]) -> list[Path]:
    """Return the candidates that contain the images of a shard. Raises BadData for other images or classes."""
    records = read_image_records(source)
    if records is None:
        raise BadData(f"was made from a different index than {candidates[0]} (their digests differ)",
                      "Give the original index with --index, or make the shard again", where=str(source.path))
    images = _read_images(tuple(_build_key(candidate) for candidate in candidates))
    _check_settings(source, candidates[0])
    paths = set()
    for position, (item_id, record) in enumerate(zip(source.ids, records, strict=True)):
        image = images.get(item_id)
        if image is None:
            raise BadData(f"was made from other images than {candidates[0]}, which does not contain {item_id} (image "
                          f"{position + 1} of {len(source.ids)})", _OTHER_INDEX, where=str(source.path))
        if not (image.is_rejected or item_id in source.errors):
            _check_identified(source, item_id, record, image)
            _check_image(source, item_id, record, image)
        paths.add(image.path)
    return sorted(paths) or [candidates[0]]


def _check_settings(source: Shard, candidate: Path) -> None:
    """Raise BadData if an index has other classes than a shard, or reads EXIF orientations differently.

    Masks that were segmented by words of the user have classes of their own.
    """
    index = Shard(candidate, "index")
    configs = [entry.get("config") for entry in source.provenance]
    if not any(isinstance(config, dict) and "words" in config for config in configs):
        check_same_classes((str(candidate), index.classes), (str(source.path), source.classes))
    if applies_exif(index.provenance) != applies_exif(source.provenance):
        made, other = ("with", "without") if applies_exif(source.provenance) else ("without", "with")
        raise BadData(f"was made from an index {made} --apply-exif, but {candidate} was made {other} it",
                      f"Run `wsss index` again {made} --apply-exif", where=str(source.path))


def _check_identified(source: Shard, item_id: str, record: np.ndarray, image: _IndexedImage) -> None:
    """Raise BadData if one of two indexes only listed an image, so that nobody knows whether it is the same."""
    if is_identified(record) and is_identified(image.record):
        return
    where = image.path if is_identified(record) else source.path
    raise BadData(f"was made from another index than {image.path}, and {where} has no checksum of {item_id} (it comes "
                  "from `wsss index --tags-only`), so the images can't be compared",
                  "Give the original index with --index; `wsss eval` also takes masks with --truth DIR",
                  where=str(source.path))


def _check_image(shard: Shard, item_id: str, record: np.ndarray, image: _IndexedImage) -> None:
    difference = describe_image_difference(record, image.record)
    if difference:
        number = f"image {shard.ids.index(item_id) + 1} of {len(shard.ids)}"
        raise BadData(f"was made from other images than {image.path}: {item_id} ({number}) had {difference}",
                      _OTHER_INDEX, where=str(shard.path))


def _build_key(path: Path) -> _FileKey:
    """Return what changes when a file is replaced."""
    status = path.stat()
    return path, status.st_ino, status.st_mtime_ns


@lru_cache(maxsize=4096)
def _read_index_digest(key: _FileKey) -> str:
    """Return the digest of an index; cached, because a run of 1,000 shards needs the same one 1,000 times."""
    return Shard(key[0], "index").digest


@lru_cache(maxsize=4)
def _read_images(keys: tuple[_FileKey, ...]) -> dict[str, _IndexedImage]:
    """Return the images of all shards of an index by id; cached for the same reason."""
    images: dict[str, _IndexedImage] = {}
    for path, _, _ in keys:
        shard = Shard(path, "index")
        records = read_image_records(shard)
        for item_id, record in zip(shard.ids, records, strict=True):
            images[item_id] = _IndexedImage(path, record, item_id in shard.errors)
        shard.close()
    return images
