"""The part of `import` that runs in worker processes: reads the files of an image and turns them into an item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.coco_json import read_coco_file
from stages.data.image_source import ImageSource
from stages.data.mask_values import parse_recorded_values
from stages.data.name_pattern import ID_FIELD
from stages.data.result_files import read_unchanged_file
from stages.errors import BadData
from stages.flow.map_work import MapWork
from stages.flow.parts import Part
from stages.import_.cam_classes import find_class_ids, select_tagged
from stages.import_.cam_files import ClassMaps, compute_covers, decode_cam_file, decode_map_picture, scale_to_unit
from stages.import_.coco_results import Results, draw_results, read_results
from stages.import_.mask_files import decode_mask_file
from stages.import_.regions import decode_regions
from stages.import_.rle_json import parse_json
from stages.shards import Item, Shard

_MISSING_REMEDY = "Add the file and use --force, or accept images without one with --allow-errors"


class ImportPart:
    """The images of one part, each of which `read_item` imports."""

    def __init__(self, source: ImageSource, read_item: Callable[[ImageSource, str], Item],
                 root_attrs: Mapping[str, Any]) -> None:
        self.source, self.read_item, self.root_attrs = source, read_item, root_attrs
        self.classes, self.images = source.classes, None

    def batch_key(self, item_id: str) -> None:
        """Return None: images of any size can be batched together."""

    def count_pixels(self, item_id: str) -> int:
        """Return 0: images are processed one by one."""
        return 0

    def load(self, item_id: str) -> Item:
        """Import an image. Raises BadData for a file that is missing or can't be imported."""
        return self.read_item(self.source, item_id)

    def compute(self, loaded: Sequence[tuple[str, Item]]) -> list[Item]:
        """Return the items, which are complete when they are loaded."""
        return [item for _, item in loaded]


class ResultFiles:
    """The files of each image, with the hashes that they had when the command started.

    `keys` are the classes of the files, None if a file has all classes of an image.
    """

    def __init__(self, work: MapWork) -> None:
        self.folder = Path(work.shared["folder"])
        self.files, self.hashes, self.problems = (work.shared[name] for name in ("files", "hashes", "problems"))
        self.expected, self.pattern = work.shared["expected"], work.shared["pattern"]
        self.keys: Mapping[str, str] | None = work.shared.get("keys")

    def get_paths(self, item_id: str) -> list[str]:
        """Return the files of an image, relative to the folder. Raises BadData if there is none, or too many."""
        if item_id in self.problems:
            raise BadData(self.problems[item_id], "Remove the file that is not meant", where=item_id)
        if item_id not in self.files:
            file = self.pattern.build_file_name(self.expected.replace(ID_FIELD, item_id))
            raise BadData(f"there is no file {file} in the folder", _MISSING_REMEDY, where=item_id)
        return self.files[item_id]

    def read(self, file: str) -> bytes:
        """Return the bytes of a file. Raises BadData, IoFailed."""
        return read_unchanged_file(self.folder, file, self.hashes[file])


class CamsWorker:
    """Imports CAMs."""

    def __init__(self, work: MapWork) -> None:
        self.files, self.root, self.config = ResultFiles(work), work.root, work.config
        self.has_background = self.config.background == "included"

    def open(self, part: Part, source: Shard, index: Shard) -> ImportPart:
        """Open a part."""
        return ImportPart(ImageSource(index, self.root), self.read_item, {"background": self.config.background})

    def read_item(self, source: ImageSource, item_id: str) -> Item:
        """Return the maps of an image. Raises BadData."""
        size, config = source.read_size(item_id), self.config
        files = self.files.get_paths(item_id)
        class_maps, where = self._read_maps(files, source.index.max_pixels)
        class_ids = find_class_ids(class_maps.keys, source.classes, config.ids_from,
                                   has_background=self.has_background, where=where)
        positions = select_tagged(class_ids, source.read_labels(item_id), config.other_classes, keys=class_maps.keys,
                                  classes=source.classes, ids_from=config.ids_from, where=where)
        maps = scale_to_unit(class_maps.maps[positions], where=where, divide_by_maximum=config.normalise == "maximum")
        covers = compute_covers(maps.shape[1:], size, config.stride, where) if len(maps) else size
        return Item(item_id, {"class_ids": class_ids[positions], "cam": maps if len(maps) else maps[:, :1, :1]},
                    {"height": size[0], "width": size[1], "covers": np.array(covers, np.int64)})

    def _read_maps(self, files: list[str], max_pixels: int) -> tuple[ClassMaps, str]:
        """Return the maps of an image and the name of their file, or of the first if each class has one."""
        if self.files.keys is None:
            return decode_cam_file(self.files.read(files[0]), where=files[0], array=self.config.array), files[0]
        maps = [decode_map_picture(self.files.read(file), where=file, max_pixels=max_pixels) for file in files]
        forms = [f"{len(values)}x{values.shape[1]} cells of {values.dtype}" for values in maps]
        for file, form in zip(files, forms, strict=True):
            if form != forms[0]:
                raise BadData(f"the map has {form}, but {files[0]} has {forms[0]}",
                              "Save all maps of an image with one size and depth", where=file)
        return ClassMaps(tuple(self.files.keys[file] for file in files), np.stack(maps)), files[0]


@lru_cache(maxsize=1)
def load_results(folder: str, file: str, sha256: str, annotations: str | None, min_score: float, ids: tuple[str, ...],
                 classes: tuple[str, ...]) -> Results:
    """Return the instances in a file of results; cached, because the command and its worker need them.

    `annotations` is the path of the file with the images and categories, or None. Raises BadData, MissingInput.
    """
    content = parse_json(read_unchanged_file(Path(folder), file, sha256), file)
    truth = read_coco_file(Path(annotations)) if annotations else None
    return read_results(content, ids, classes, min_score=min_score, images=truth.images if truth else None,
                        categories=truth.categories if truth else None, where=file)


class CocoWorker:
    """Draws instances as masks."""

    def __init__(self, work: MapWork) -> None:
        self.root, self.file = work.root, work.shared["results"][1]
        self.results = load_results(*work.shared["results"])

    def open(self, part: Part, source: Shard, index: Shard) -> ImportPart:
        """Open a part."""
        return ImportPart(ImageSource(index, self.root), self.read_item, {})

    def read_item(self, source: ImageSource, item_id: str) -> Item:
        """Return the mask of an image. Raises BadData."""
        if self.results.listed_ids is not None and item_id not in self.results.listed_ids:
            raise BadData("the file of annotations does not list this image",
                          "Use the annotations of these images, or accept such images with --allow-errors",
                          where=item_id)
        return Item(item_id, {"mask": draw_results(self.results.entries.get(item_id, ()), source, item_id, self.file)})


class MasksWorker:
    """Imports masks."""

    def __init__(self, work: MapWork) -> None:
        self.files, self.root = ResultFiles(work), work.root
        self.mask_values = parse_recorded_values(work.config_dict["mask_values"])

    def open(self, part: Part, source: Shard, index: Shard) -> ImportPart:
        """Open a part."""
        return ImportPart(ImageSource(index, self.root), self.read_item, {})

    def read_item(self, source: ImageSource, item_id: str) -> Item:
        """Return the mask of an image. Raises BadData."""
        file = self.files.get_paths(item_id)[0]
        mask = decode_mask_file(self.files.read(file), where=file, num_classes=len(source.classes) - 1,
                                size=source.read_size(item_id), max_pixels=source.index.max_pixels,
                                mask_values=self.mask_values)
        if not source.classes[0]:
            mask[mask == 0] = 255 if mask.dtype.itemsize == 1 else 65535
        return Item(item_id, {"mask": mask})


class RegionsWorker:
    """Imports regions without classes."""

    def __init__(self, work: MapWork) -> None:
        self.files, self.root = ResultFiles(work), work.root
        self.on_top, self.none_value = work.config.on_top, work.config.none_value

    def open(self, part: Part, source: Shard, index: Shard) -> ImportPart:
        """Open a part."""
        return ImportPart(ImageSource(index, self.root), self.read_item, {})

    def read_item(self, source: ImageSource, item_id: str) -> Item:
        """Return the labels of the regions of an image. Raises BadData."""
        file = self.files.get_paths(item_id)[0]
        labels = decode_regions(self.files.read(file), where=file, size=source.read_size(item_id),
                                max_pixels=source.index.max_pixels, on_top=self.on_top, none_value=self.none_value)
        return Item(item_id, {"labels": labels})
