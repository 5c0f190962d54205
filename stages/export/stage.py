"""`export`: writes masks, or the ground truth of an index, in the formats of other tools."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np

from stages.data.layout_voc import VOC_CLASSES
from stages.errors import BadData, Stopped, UsageError
from stages.export.config import (
    CocoConfig,
    CvatConfig,
    HfConfig,
    LabelmeConfig,
    LabelStudioConfig,
    MmsegConfig,
    PngConfig,
    VocConfig,
    YoloConfig,
)
from stages.export.exported_set import IGNORED_LABEL, ExportedImage, ExportedSet, Statistics
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.folder_output import FolderOutput, check_file_ids
from stages.flow.image_copies import ImageCopies, describe_orientations, write_images
from stages.flow.labelled_images import LabelledImages


@dataclass(frozen=True)
class _Format:
    """A format: the module whose `build_files` encodes it, and where images are (None: not part of the layout)."""

    module: str
    image_folder: str | None
    stores_ids: bool = False


_FORMATS: dict[type, _Format] = {
    PngConfig: _Format("png", None, stores_ids=True),
    VocConfig: _Format("voc", "JPEGImages/", stores_ids=True),
    CocoConfig: _Format("coco", "images/"),
    YoloConfig: _Format("yolo", "images/{split}/"),
    LabelmeConfig: _Format("labelme", ""),
    CvatConfig: _Format("cvat", "images/"),
    LabelStudioConfig: _Format("labelstudio", "images/"),
    MmsegConfig: _Format("mmseg", "img_dir/{split}/", stores_ids=True),
    HfConfig: _Format("hf", "{split}/images/", stores_ids=True),
}


def run(config: Any, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the masks of a run, or the ground truth of an index, in the format of the settings `config`.

    One image is in memory at a time. Files with equal contents are up to date. Raises CannotCreate for others that are
    there already, and UsageError or BadData for what the format cannot hold.
    """
    layout = _FORMATS[type(config)]
    labelled = LabelledImages(inputs, is_size_checked=type(config) is not PngConfig)
    check_file_ids(labelled.run.ids, output.path)
    _check_settings(config, layout, labelled)
    if getattr(config, "submission", False):
        config = replace(config, ignored="reject", images="none")
        _check_submission(labelled, stop, report)
    folder, statistics = FolderOutput(output, report), Statistics()
    copies = _write_images(config, layout, labelled, folder, stop, report)
    report.start_progress("", len(labelled.ids) - len(copies.failures))
    images = _Images(labelled, copies, config, statistics, _choose_names(config, labelled, output), stop, report)
    exported = ExportedSet(images, labelled.classes, labelled.ignore_index, statistics)
    for name, data in import_module(f"stages.export.{layout.module}").build_files(exported, config):
        if isinstance(data, bytes):
            folder.write(name, data)
        else:
            folder.write_chunks(name, data)
    for note in _list_notes(config, labelled, copies, statistics):
        report.info(note)
    num_failed = labelled.num_failed + len(copies.failures)
    return Summary(folder.num_written, folder.num_up_to_date, len(list(labelled.run.ids)), num_failed,
                   written_noun="file")


def _check_settings(config: Any, layout: _Format, labelled: LabelledImages) -> None:
    split = getattr(config, "split", "")
    if any(character in split for character in "/\\\0") or split in (".", "..") or not getattr(config, "split", "x"):
        raise UsageError(f"--split {split!r} cannot be part of a file name", "Use a name such as train or val")
    if config.ignored == "background" and layout.stores_ids and not labelled.classes[0]:
        raise UsageError("--ignored background needs a background, but the first class of this data set is class 1",
                         "Use --ignored keep or --ignored reject")


def _write_images(config: Any, layout: _Format, labelled: LabelledImages, folder: FolderOutput, stop: Stop,
                  report: Report) -> ImageCopies:
    mode = getattr(config, "images", "none")
    if layout.image_folder is None or mode == "none":
        return ImageCopies()
    prefix = layout.image_folder.format(split=getattr(config, "split", ""))
    copies = write_images(labelled, folder, prefix, mode, stop, report)
    if len(copies.failures) == len(labelled.ids) and copies.failures:
        raise BadData(f"none of the {len(labelled.ids)} images can be read ({next(iter(copies.failures.values()))})",
                      "Use --root DIR, or --images none", where=str(labelled.run.first.path))
    return copies


def _choose_names(config: Any, labelled: LabelledImages, output: Output) -> Callable[[str], str]:
    """Return a function from an id to the name of an image that is not copied."""
    def get_path(item_id: str) -> str:
        return str(labelled.get_source(item_id).read_entry(item_id).attrs["path"])

    def get_relative_path(item_id: str) -> str:
        file = labelled.get_source(item_id).find_image_file(item_id)
        return get_path(item_id) if file is None else os.path.relpath(file, output.path)
    return get_relative_path if isinstance(config, LabelmeConfig) else get_path


class _Images:
    """The images to export, in order; each pass reads them again."""

    def __init__(self, labelled: LabelledImages, copies: ImageCopies, config: Any, statistics: Statistics,
                 get_name: Callable[[str], str], stop: Stop, report: Report) -> None:
        self._labelled, self._copies, self._config, self._statistics = labelled, copies, config, statistics
        self._get_name, self._stop, self._report = get_name, stop, report

    def __iter__(self) -> Iterator[ExportedImage]:
        for item_id in self._labelled.ids:
            if item_id not in self._copies.failures:
                yield ExportedImage(item_id, self._get_file_name, self._labelled.read_size, self._read_mask)

    def _get_file_name(self, item_id: str) -> str:
        return self._copies.names.get(item_id) or self._get_name(item_id)

    def _read_mask(self, item_id: str) -> np.ndarray:
        """Return a mask in which ignored pixels are treated as the settings say."""
        if self._stop.requested:
            raise Stopped("stopped by a signal", "Run the same command again")
        mask = self._labelled.read_mask(item_id)
        ignored = mask == self._labelled.ignore_index
        num_ignored = int(ignored.sum())
        if num_ignored and self._config.ignored == "reject":
            raise BadData(f"{num_ignored} of {mask.size} pixels are ignored, and --ignored reject is set",
                          "Use --ignored background, or make the masks without --min-confidence", where=item_id)
        if num_ignored and self._config.ignored == "background":
            mask = np.where(ignored, mask.dtype.type(0), mask)
        self._statistics.add_ignored(num_ignored, mask.size)
        self._report.advance()
        return mask


_KEPT_AS = {CocoConfig: "crowd annotations",
            **dict.fromkeys((LabelmeConfig, CvatConfig, LabelStudioConfig), f"the label {IGNORED_LABEL}")}


def _list_notes(config: Any, labelled: LabelledImages, copies: ImageCopies, statistics: Statistics) -> Iterator[str]:
    """Yield what a user must know about the files that were written."""
    if labelled.num_without_mask:
        yield f"Skipped {labelled.num_without_mask} images of the index that have no ground truth."
    mode = getattr(config, "images", "none")
    yield from copies.describe(mode)
    if statistics.num_ignored:
        kept = f"kept as {_KEPT_AS.get(type(config), str(labelled.ignore_index))}"
        yield (f"{statistics.num_ignored} pixels ({statistics.num_ignored / statistics.num_pixels:.1%}) in "
               f"{statistics.num_images_with_ignored} images are ignored; they are "
               f"{kept if config.ignored == 'keep' else 'written as background'} (--ignored).")
    if polygons := statistics.describe_polygons():
        yield polygons
    yield from statistics.notes
    if hasattr(config, "images") and mode == "none" and not getattr(config, "submission", False):
        roots = sorted({str(source.root) for source in labelled.sources})
        yield f"The images are not copied; they are in {', '.join(roots)}."
        if orientations := describe_orientations(labelled):
            yield orientations


def _check_submission(labelled: LabelledImages, stop: Stop, report: Report) -> None:
    """Raise BadData if the server would reject the masks or count them as wrong."""
    if labelled.classes != VOC_CLASSES:
        more = ", ..." if len(labelled.classes) > 4 else ""
        report.info(f"The classes are {', '.join(labelled.classes[:4])}{more}, but the VOC server scores the 20 "
                    "classes of VOC, in their order.")
    indexed_ids = [item_id for source in labelled.sources for item_id in source.index.ids]
    missing = [item_id for item_id in indexed_ids if item_id not in labelled.run]
    if missing:
        raise BadData(f"{len(missing)} of {len(indexed_ids)} images have no mask (the first is {missing[0]}), but a "
                      "submission needs a mask of every image", "See `wsss info MASKS` for the reasons, and make these "
                      "masks", where=str(labelled.run.first.path))
    report.start_progress("checking masks", len(indexed_ids))
    for item_id in labelled.ids:
        if stop.requested:
            raise Stopped("stopped by a signal", "Run the same command again")
        if bool((labelled.read_mask(item_id) == labelled.ignore_index).any()):
            raise BadData("the mask has ignored pixels, which a submission may not have",
                          "Make the masks without --min-confidence", where=item_id)
        report.advance()
