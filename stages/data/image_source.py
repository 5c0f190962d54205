"""Read the images, masks and tags that an index lists; all stages read images through this module."""

from __future__ import annotations

import os
import posixpath
import stat
import zlib
from pathlib import Path

import numpy as np

from stages.data.image_size import compute_reduced_size
from stages.data.images import decode_image
from stages.data.mask_values import parse_recorded_values
from stages.data.masks import decode_mask
from stages.errors import BadData, MissingInput, explain_read_error
from stages.shards import Item, Run, Shard

_PACKED_DATASETS = ("image", "mask")
# Index entries cached per process, about 1.5 kB each. Training on fewer images than this reads each entry once.
_MAX_CACHED_ENTRIES = 20_000
# Ends the name of the archive in the path of an image inside an archive.
ARCHIVE_SEPARATOR = ".tar/"
_INDEX_AGAIN = "Run `wsss index` again, or restore the file"


class ImageSource:
    """Read the images, masks and tags of an index. Errors of a single image are BadData that names its path."""

    def __init__(self, index: Shard, root: str | None = None, *, max_side: int = 0,
                 max_cached_entries: int | None = None) -> None:
        """Read the images of `index`, reduced to `max_side` pixels a side if they are larger (0: never).

        `root` overrides the folder that the index names. At most `max_cached_entries` entries are cached in memory.
        """
        self.max_side, self.num_reduced = max_side, 0
        self.index, self._max_cached_entries = index, max_cached_entries or _MAX_CACHED_ENTRIES
        self.root = Path(root) if root else Path(os.path.normpath(index.path.parent / index.attribute("root")))
        self.classes = index.classes
        configs = [record.get("config", {}) for record in index.provenance]
        self._apply_exif = any(config.get("apply_exif") for config in configs)
        self._label_map = str(next((config["label_map"] for config in configs if config.get("label_map")), ""))
        # The provenance names values by class id, so a later change of class names can't change the masks.
        recorded = str(next((config["mask_values"] for config in configs if config.get("mask_values")), ""))
        self._mask_values = parse_recorded_values(recorded)
        self._is_packed = any(config.get("pack") for config in configs)
        self._cached_entries: dict[str, Item] = {}

    def read_entry(self, item_id: str) -> Item:
        """Return the entry of an image in the index, without packed bytes. Raises BadData if the index rejected it."""
        entry = self._cached_entries.get(item_id)
        if entry is None:
            if len(self._cached_entries) >= self._max_cached_entries:
                self._cached_entries.clear()
            entry = self._cached_entries[item_id] = self.index.item(item_id, exclude=_PACKED_DATASETS)
        if entry.error is not None:
            raise BadData(entry.error)
        return entry

    def read_size(self, item_id: str) -> tuple[int, int]:
        """Return (H, W) of an image, before it is reduced."""
        attrs = self.read_entry(item_id).attrs
        if "height" in attrs:
            return attrs["height"], attrs["width"]
        height, width = self._decode_image(item_id, max_side=0).shape[:2]
        return height, width

    def read_input_size(self, item_id: str) -> tuple[int, int]:
        """Return (H', W') of an image as `read_image` returns it."""
        return compute_reduced_size(self.read_size(item_id), self.max_side)

    def read_labels(self, item_id: str) -> tuple[int, ...] | None:
        """Return the class ids of the image's tags, or None if they are unknown."""
        labels = self.read_entry(item_id).datasets.get("labels")
        return None if labels is None else tuple(labels.tolist())

    def read_image(self, item_id: str) -> np.ndarray:
        """Return an image, (H', W', 3) uint8. Raises BadData if the file is not the one that was indexed."""
        image = self._decode_image(item_id, max_side=self.max_side)
        attrs = self.read_entry(item_id).attrs
        self.num_reduced += "height" in attrs and image.shape[:2] != (attrs["height"], attrs["width"])
        return image

    @property
    def applies_exif(self) -> bool:
        """Whether images are rotated as their EXIF orientation says."""
        return self._apply_exif

    def read_encoded_image(self, item_id: str) -> bytes:
        """Return the bytes of an image file. Raises BadData if the file is not the one that was indexed."""
        entry = self.read_entry(item_id)
        path = str(entry.attrs["path"])
        data = self._read_bytes(item_id, "image", path, is_packed=self._is_packed)
        if "crc32" in entry.attrs and zlib.crc32(data) != entry.attrs["crc32"]:
            raise BadData("the image has changed since it was indexed", _INDEX_AGAIN, where=path)
        return data

    def find_image_file(self, item_id: str) -> Path | None:
        """Return the file of an image, or None if it is packed in the index or part of an archive."""
        attrs = self.read_entry(item_id).attrs
        return None if self._is_packed or "offset" in attrs else self.root / str(attrs["path"])

    def _decode_image(self, item_id: str, max_side: int) -> np.ndarray:
        data = self.read_encoded_image(item_id)
        return decode_image(data, where=str(self.read_entry(item_id).attrs["path"]), max_pixels=self.index.max_pixels,
                            apply_exif=self._apply_exif, max_side=max_side)

    def has_mask(self, item_id: str) -> bool:
        """Return whether the index has a ground-truth mask of this image."""
        attrs = self.read_entry(item_id).attrs
        return "mask_path" in attrs or "mask_crc32" in attrs

    def read_mask(self, item_id: str) -> np.ndarray:
        """Return the ground truth, (H, W) class ids; 255 (65535) for ignored pixels.

        If the data set has no background (class 0 has an empty name), 0 means void and becomes the ignore index.
        Raises BadData if the file is not the one that was indexed.
        """
        entry = self.read_entry(item_id)
        if not self.has_mask(item_id):
            raise BadData("the index has no mask of this image", "Run `wsss index` again with --masks", where=item_id)
        # The index itself holds a mask that was drawn from outlines, in class ids.
        is_drawn = "mask_path" not in entry.attrs
        path = f"the mask of {item_id}" if is_drawn else str(entry.attrs["mask_path"])
        data = self._read_bytes(item_id, "mask", path, is_packed=is_drawn or self._is_packed)
        if "mask_crc32" in entry.attrs and zlib.crc32(data) != entry.attrs["mask_crc32"]:
            raise BadData("the mask has changed since it was indexed", _INDEX_AGAIN, where=path)
        mask = decode_mask(data, where=path, num_classes=len(self.classes) - 1, size=self.read_size(item_id),
                           max_pixels=self.index.max_pixels, label_map="" if is_drawn else self._label_map,
                           mask_values=None if is_drawn else self._mask_values)
        if not self.classes[0]:
            mask[mask == 0] = np.iinfo(mask.dtype).max
        return mask

    def _read_bytes(self, item_id: str, dataset: str, path: str, *, is_packed: bool) -> bytes:
        """Return the bytes of an image or mask: packed in the index, part of an archive, or a file."""
        packed = self.index.read_item_dataset(item_id, dataset) if is_packed else None
        if packed is not None:
            return packed.tobytes()
        attrs = self.read_entry(item_id).attrs
        byte_range = (attrs["offset"], attrs["bytes"]) if dataset == "image" and "offset" in attrs else None
        try:
            return read_image_bytes(self.root, path, byte_range)
        except BadData:
            if self.root.is_dir():
                raise
            # All images are missing, not just this one: stop once instead of failing every image.
            raise MissingInput("the folder of the images does not exist", "Use --root DIR or set WSSS_ROOT",
                               where=str(self.root)) from None


def open_image_sources(index: Run, root: str | None, *, max_side: int = 0) -> list[ImageSource]:
    """Open an image source for each part of an index; together they cache as many entries as one source would."""
    num_entries = max(1, _MAX_CACHED_ENTRIES // len(index.shards))
    return [ImageSource(shard, root, max_side=max_side, max_cached_entries=num_entries) for shard in index.shards]


def find_image_root(index: Run) -> Path:
    """Return the folder of the images of an index in parts. Raises BadData if the parts have different folders."""
    roots = {os.path.abspath(shard.path.parent / shard.attribute("root")): shard.path for shard in index.shards}
    if len(roots) > 1:
        (first_root, first_path), (root, path), *_ = roots.items()
        raise BadData(f"the images of this part are in {root}, but those of {first_path} are in {first_root}",
                      "Pass the parts of one index only", where=str(path))
    return Path(next(iter(roots)))


def read_image_bytes(root: Path, path: str, byte_range: tuple[int, int] | None = None) -> bytes:
    """Return the bytes of a file, or with `byte_range` (offset, size) these bytes of the tar archive in `path`.

    Raises BadData if the file is missing, unreadable or outside `root`, and IoFailed if the system refused to read it
    for a reason that has nothing to do with the file.
    """
    archive_end = path.index(ARCHIVE_SEPARATOR) + len(ARCHIVE_SEPARATOR) - 1 if byte_range else len(path)
    file = root / path[:archive_end]
    if _leads_out_of_root(path):
        raise BadData("the file is outside the folder of the images",
                      "Move it there, or use --root with a folder that contains it", where=path)
    try:
        # Reading a pipe or a device could block for ever.
        if not stat.S_ISREG(file.stat().st_mode):
            raise BadData("this is not a regular file", "Replace it, or remove it from the list", where=path)
        return _read_archive_range(file, *byte_range, path) if byte_range else file.read_bytes()
    except OSError as error:
        if io_error := explain_read_error(error, path):
            raise io_error from None
        raise BadData(f"the file can't be read ({error.strerror})", "Restore it, or remove it from the list",
                      where=path) from None


def _read_archive_range(archive: Path, offset: int, size: int, path: str) -> bytes:
    with archive.open("rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) != size:
        raise BadData("the archive is truncated", "Download or copy it again", where=path)
    return data


def _leads_out_of_root(path: str) -> bool:
    """Return whether a path of an index is absolute or climbs out of the root.

    Links below the root are followed, also to other drives: people build data sets from links.
    """
    return posixpath.isabs(path) or posixpath.normpath(path).startswith("../") or "\0" in path
