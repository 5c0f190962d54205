"""The ground truth that `eval` compares with: the masks of an index, or a folder of masks named as the images."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from stages.data.folders import MASK_SUFFIXES, FileFinder, require_folder
from stages.data.image_source import ImageSource, read_image_bytes
from stages.data.mask_values import parse_recorded_values
from stages.data.masks import decode_mask
from stages.errors import BadData, MissingInput
from stages.flow.execution import Report
from stages.flow.index_lookup import find_indexes
from stages.shards import Run, Shard, check_same_classes, hash_json, read_image_records

_LISTED_FILES = 3


class Truth(Protocol):
    """Ground-truth masks by id."""

    num_images: int
    num_rejected: int
    indexes: list[Shard]

    def iterate_ids(self) -> Iterator[str]:
        """Yield the ids of the images to score, also of those without a mask."""

    def has_mask(self, item_id: str) -> bool:
        """Return whether an image has a mask, and was not rejected by the index."""

    def read_mask(self, item_id: str) -> np.ndarray:
        """Return the mask (H, W) of an image. Raises BadData."""

    def describe(self) -> dict[str, str]:
        """Return what the result records of the ground truth."""

    def build_missing_error(self) -> MissingInput:
        """Return the error for a ground truth without any mask."""

    def report_skipped_images(self, report: Report) -> None:
        """Report which images are not scored, and why."""


class IndexTruth:
    """The masks that the index of a run lists; or those of another index of the same images, which may have more."""

    def __init__(self, run: Run, index_argument: str | None, root: str | None) -> None:
        """Find the index. Raises MissingInput, BadData (other images or classes)."""
        self._run = run
        self.indexes = [Shard(path, "index") for path in find_indexes(run.shards, index_argument)]
        first = self.indexes[0]
        check_same_classes((str(run.first.path), run.classes), (str(first.path), first.classes))
        self._sources = [ImageSource(shard, root) for shard in self.indexes]
        self._digests = {shard.index_digest for shard in run.shards}
        self._source_by_id: dict[str, ImageSource] = {}
        for source in self._sources:
            self._source_by_id |= dict.fromkeys(self._select_ids(source.index), source)
        self.num_images = len(self._source_by_id)
        self.num_rejected = sum(item_id in source.index.errors for item_id, source in self._source_by_id.items())
        self.num_not_in_run = sum(len(shard.ids) for shard in self.indexes) - self.num_images

    def _select_ids(self, index: Shard) -> list[str]:
        """Return the ids of an index to score: all if the run was made from it, else those that the run has."""
        is_original = index.digest in self._digests
        return [item_id for item_id in index.ids if is_original or item_id in self._run.shard_by_id]

    def iterate_ids(self) -> Iterator[str]:
        """Yield the ids of the images to score."""
        return iter(self._source_by_id)

    def has_mask(self, item_id: str) -> bool:
        """Return whether the index lists a mask of an image and did not reject the image."""
        source = self._source_by_id[item_id]
        return item_id not in source.index.errors and source.has_mask(item_id)

    def read_mask(self, item_id: str) -> np.ndarray:
        """Return the mask (H, W) of an image. Raises BadData if it has changed since it was indexed."""
        return self._source_by_id[item_id].read_mask(item_id)

    def describe(self) -> dict[str, str]:
        """Return the digest of the index."""
        return {"index": self._sources[0].index.digest}

    def build_missing_error(self) -> MissingInput:
        """Return the error for an index without masks."""
        return MissingInput("the index has no ground-truth masks to compare with",
                            "Run `wsss index` again with --masks DIR and another -o, and give that index with --index; "
                            "or give the folder of the masks with --truth DIR", where=str(self._sources[0].index.path))

    def report_skipped_images(self, report: Report) -> None:
        """Report how many images the index rejected, and how many of them the run does not have."""
        path = self._sources[0].index.path
        if self.num_rejected:
            report.info(f"Skipped {self.num_rejected} of {self.num_images} images because the index rejected them. "
                        f"List them with `wsss info {path}`.")
        if self.num_not_in_run:
            report.info(f"Skipped {self.num_not_in_run} of {self.num_images + self.num_not_in_run} images of the index "
                        f"{path} because they are not in this run.")


class FolderTruth:
    """The masks in a folder: files named as the ids of the images, with the class ids of the run."""

    num_rejected = 0

    def __init__(self, run: Run, folder: Path) -> None:
        """Find the masks. Raises MissingInput if there is no such folder."""
        self.indexes: list[Shard] = []
        self._run, self._folder = run, require_folder(folder, "Give the folder of the masks with --truth DIR")
        finder = FileFinder(folder, folder, MASK_SUFFIXES)
        self._path_by_id = {item_id: path for item_id in run.ids if (path := finder.find(item_id)) is not None}
        self._extra_names = sorted(set(finder.list_ids()) - {Path(path).stem for path in self._path_by_id.values()})
        self.num_images = len(run.shard_by_id)
        configs = [entry["config"] for entry in run.first.provenance if isinstance(entry.get("config"), dict)]
        self._label_map = str(next((config["label_map"] for config in configs if config.get("label_map")), ""))
        recorded = str(next((config["mask_values"] for config in configs if config.get("mask_values")), ""))
        self._mask_values = parse_recorded_values(recorded)
        self._size_by_id: dict[str, tuple[int, int]] = {}
        for shard in run.shards:
            records = read_image_records(shard)
            if records is not None:
                self._size_by_id |= {item_id: (height, width) for item_id, (_, _, height, width, _)
                                     in zip(shard.ids, records.tolist(), strict=True) if height > 0}
        self._checksums: dict[str, int] = {}

    def iterate_ids(self) -> Iterator[str]:
        """Yield the ids of the run."""
        return iter(self._run.shard_by_id)

    def has_mask(self, item_id: str) -> bool:
        """Return whether the folder has a mask of an image."""
        return item_id in self._path_by_id

    def read_mask(self, item_id: str) -> np.ndarray:
        """Return the mask (H, W) of an image. Raises BadData for another size than the image, or unknown class ids."""
        path = self._path_by_id[item_id]
        data = read_image_bytes(self._folder, path)
        self._checksums[item_id] = zlib.crc32(data)
        try:
            mask = decode_mask(data, where=str(self._folder / path), num_classes=len(self._run.classes) - 1,
                               size=self._size_by_id.get(item_id), max_pixels=self._run.first.max_pixels,
                               label_map=self._label_map, mask_values=self._mask_values)
        except BadData as error:
            raise BadData(error.message, error.remedy, where=str(self._folder / path)) from None
        if not self._run.classes[0]:
            mask[mask == 0] = np.iinfo(mask.dtype).max
        return mask

    def describe(self) -> dict[str, str]:
        """Return a digest of the masks that were read, by id."""
        return {"truth": hash_json(self._checksums)}

    def build_missing_error(self) -> MissingInput:
        """Return the error for a folder without a mask of any image."""
        example = next(iter(self._run.shard_by_id), "ID")
        found = f"; it has {_list_names(self._extra_names)}" if self._extra_names else ""
        return MissingInput(f"none of the {self.num_images} images of the run has a mask in this folder{found}",
                            f"Give a folder with masks named as the ids of the images, such as {example}.png",
                            where=str(self._folder))

    def report_skipped_images(self, report: Report) -> None:
        """Report how many images have no mask, which files are no masks of images, and how values are read."""
        num_without = self.num_images - len(self._path_by_id)
        if num_without:
            report.info(f"Skipped {num_without} of {self.num_images} images of the run because {self._folder} has no "
                        "mask of them.")
        if self._extra_names:
            report.info(f"Ignored {len(self._extra_names)} files in {self._folder} that are named as no image of the "
                        f"run ({_list_names(self._extra_names)}).")
        if self._label_map:
            report.info(f"Read the values of the masks as those of {self._label_map}, as the index of the run does.")
        if self._mask_values:
            report.info(f"Read the values of the masks as {self._mask_values.text}, as the index of the run does.")


def open_truth(run: Run, folder: str | None, index_argument: str | None, root: str | None) -> Truth:
    """Return the ground truth in a folder, or that of the index of a run if `folder` is None."""
    return IndexTruth(run, index_argument, root) if folder is None else FolderTruth(run, Path(folder))


def _list_names(names: list[str]) -> str:
    return ", ".join(names[:_LISTED_FILES]) + (", ..." if len(names) > _LISTED_FILES else "")
