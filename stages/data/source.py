"""Images, masks and tags as an index lists them: the one way by which stages come to pictures."""

from __future__ import annotations

import os
import stat
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from stages.data.images import decode_image
from stages.data.masks import decode_mask
from stages.errors import BadData, MissingInput, refused_read
from stages.shards import Item, Run, Shard

_PACKED = ("image", "mask")
_MOST_KEPT = 20_000  # entries in a process, of about 1.5 kB: a training over fewer images reads each once
# What ends the name of an archive in the path of an image within it.
ARCHIVE = ".tar/"


class ImageSource:
    """Reads what an index lists. Everything that is wrong with one image is BadData naming its path."""

    def __init__(self, index: Shard, root: str | None = None, *, most_kept: int | None = None) -> None:
        """Read by `index`; `root` overrides the folder that the index names. `most_kept` entries stay in memory."""
        self.index, self._most_kept = index, most_kept or _MOST_KEPT
        self.root = Path(root) if root else Path(os.path.normpath(index.path.parent / index.attribute("root")))
        self.classes = index.classes
        self._apply_exif = any(entry.get("config", {}).get("apply_exif") for entry in index.provenance)
        maps = [entry["config"]["label_map"] for entry in index.provenance if entry.get("config", {}).get("label_map")]
        self._label_map = str(maps[0]) if maps else ""
        self._is_packed = any(entry.get("config", {}).get("pack") for entry in index.provenance)
        self._entries: dict[str, Item] = {}

    def entry(self, item_id: str) -> Item:
        """Return the index's entry without packed bytes; BadData when the image was refused at index."""
        entry = self._entries.get(item_id)
        if entry is None:
            if len(self._entries) >= self._most_kept:
                self._entries.clear()
            entry = self._entries[item_id] = self.index.item(item_id, without=_PACKED)
        if entry.error is not None:
            raise BadData(entry.error)
        return entry

    def size(self, item_id: str) -> tuple[int, int]:
        """Return (H, W) of an image."""
        attrs = self.entry(item_id).attrs
        if "height" in attrs:
            return attrs["height"], attrs["width"]
        height, width = self.image(item_id).shape[:2]
        return height, width

    def labels(self, item_id: str) -> tuple[int, ...] | None:
        """Return the class ids that the tags say are present; None where that is unknown."""
        labels = self.entry(item_id).datasets.get("labels")
        return None if labels is None else tuple(labels.tolist())

    def image(self, item_id: str) -> np.ndarray:
        """Return an image, (H, W, 3) uint8. A file that differs from the one that was indexed is BadData."""
        entry = self.entry(item_id)
        path = str(entry.attrs["path"])
        data = self._bytes(item_id, "image", path)
        if "crc32" in entry.attrs and zlib.crc32(data) != entry.attrs["crc32"]:
            raise BadData("is not the file that was indexed", "index it again", where=path)
        return decode_image(data, where=path, max_pixels=self.index.max_pixels, apply_exif=self._apply_exif)

    def has_mask(self, item_id: str) -> bool:
        """Say whether the index knows a ground-truth mask of this image."""
        return "mask_path" in self.entry(item_id).attrs

    def mask(self, item_id: str) -> np.ndarray:
        """Return the ground truth, (H, W) class ids; 255 (65535) where it says nothing.

        Where the data set has no background (an empty class 0), its 0 means void and becomes ignore. A file that
        differs from the one that was indexed is BadData.
        """
        entry = self.entry(item_id)
        if "mask_path" not in entry.attrs:
            raise BadData("has no mask in the index", "index it with --masks", where=item_id)
        path = str(entry.attrs["mask_path"])
        data = self._bytes(item_id, "mask", path)
        if "mask_crc32" in entry.attrs and zlib.crc32(data) != entry.attrs["mask_crc32"]:
            raise BadData("is not the mask that was indexed", "index it again", where=path)
        mask = decode_mask(data, where=path, n_classes=len(self.classes) - 1, size=self.size(item_id),
                           max_pixels=self.index.max_pixels, label_map=self._label_map)
        if not self.classes[0]:
            mask[mask == 0] = np.iinfo(mask.dtype).max
        return mask

    def _bytes(self, item_id: str, packed: str, path: str) -> bytes:
        found = self.index.member(item_id, packed) if self._is_packed else None
        if found is not None:
            return found.tobytes()
        attrs = self.entry(item_id).attrs
        span = (attrs["offset"], attrs["bytes"]) if packed == "image" and "offset" in attrs else None
        try:
            return read_bytes(self.root, path, span)
        except BadData:
            if self.root.is_dir():
                raise
            # Not one image is gone but all of them: told once, and nothing is refused.
            raise MissingInput("the folder of the images is not there", "give --root DIR or set WSSS_ROOT",
                               where=str(self.root)) from None


def sources_of(index: Run, root: str | None) -> list[ImageSource]:
    """Return a source for each part of an index, which together keep as many entries as one would."""
    return [ImageSource(shard, root, most_kept=max(1, _MOST_KEPT // len(index.shards))) for shard in index.shards]


def root_of(index: Run) -> Path:
    """Return the folder of the images of an index in parts. Raises BadData where they have several."""
    roots = {os.path.abspath(shard.path.parent / shard.attribute("root")): shard.path for shard in index.shards}
    if len(roots) > 1:
        (first, path), (second, other), *_ = roots.items()
        raise BadData(f"its images lie in {second}, those of {path} in {first}", "give parts of one index",
                      where=str(other))
    return Path(next(iter(roots)))


def read_bytes(root: Path, path: str, span: tuple[int, int] | None = None) -> bytes:
    """Return a file's bytes; BadData when it is not there, can't be read or lies outside `root`.

    IoFailed where the system refuses for reasons that say nothing of the file.
    With `span` (offset, size) the path leads into a tar archive, and these bytes of that are meant.
    """
    place = root / (path[:path.index(ARCHIVE) + len(ARCHIVE) - 1] if span else path)
    if not _inside(str(root), str(place.parent)):
        raise BadData("lies outside the root of the images", "put it below --root", where=path)
    try:
        # A pipe or a device in its place could be waited for without end.
        if not stat.S_ISREG(place.stat().st_mode):
            raise BadData("is not a regular file", "put the file there, or take it off the list", where=path)
        return _part(place, *span, path) if span else place.read_bytes()
    except OSError as error:
        if refused := refused_read(error, path):
            raise refused from None
        do = "bring the file, or take it off the list"
        raise BadData(f"can't be read ({error.strerror})", do, where=path) from None


def _part(archive: Path, offset: int, size: int, path: str) -> bytes:
    with archive.open("rb") as opened:
        opened.seek(offset)
        data = opened.read(size)
    if len(data) != size:
        raise BadData("the archive is cut short", "fetch or copy it again", where=path)
    return data


@lru_cache(maxsize=4096)
def _inside(root: str, folder: str) -> bool:
    return Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))
