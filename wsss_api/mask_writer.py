"""Writes masks that were made in Python as a run that the commands read."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.image_source import ImageSource
from stages.errors import BadData, MissingInput, UsageError
from stages.flow.background_share import PixelCounts
from stages.flow.execution import Output
from stages.flow.existing_output import find_finished_shard
from stages.flow.make_part import write_log
from stages.flow.parts import list_sibling_shards, shard_output_path
from stages.shards import (
    Item,
    Run,
    Shard,
    ShardContents,
    extract_request,
    provenance_entry,
    read_image_records,
    write_shard,
)
from stages.shards.disk import make_folder
from stages.shards.items import pack_record, unpack_record
from wsss_api.errors import suggest_similar
from wsss_api.items import MaskItem
from wsss_api.mask_values import MaskValues
from wsss_api.reports import CollectingReport, ReportOption
from wsss_api.results import Result
from wsss_api.runs import list_paths

_HINT = "check the values of the masks, and say what they mean with classes={value: name}"


def write_masks(path: str | os.PathLike[str], masks: Any, *, index: Any, classes: Any, note: str, shard_size: int,
                force: bool, report: ReportOption) -> Result:
    """Write a run of masks; see `wsss.write_masks`."""
    if shard_size < 1:
        raise UsageError(f"shard_size={shard_size} is out of range", "Use 1 or more")
    messages, output = CollectingReport(report), Output(Path(path), force=force)
    index_run = Run(list_paths(index), "index")
    values = MaskValues(classes, index_run.classes)
    messages.info(f"Values of the masks: {values.describe()}.")
    packed = _PackedMasks(index_run, values)
    packed.add_all(masks)
    packed.report_coverage(messages)
    entry = provenance_entry("import", "python", {"classes": values.to_json(), "note": note},
                             {"index": index_run.digest, "masks": packed.compute_digest()})
    groups = _group_by_part(packed, index_run, shard_size)
    num_written = sum(_write_part(output, packed, entry, shard, ids, number, len(groups), messages)
                      for number, (shard, ids) in enumerate(groups))
    return Result("write_masks", tuple(messages.paths), output.path, messages=tuple(messages.messages),
                  num_images=len(packed.records), num_written=num_written, num_up_to_date=len(groups) - num_written)


class _PackedMasks:
    """The masks by id, checked and compressed: those of 10,000 photographs take tens of megabytes."""

    def __init__(self, index: Run, values: MaskValues) -> None:
        self.index, self.values, self.counts = index, values, PixelCounts()
        self.sources = {shard.path: ImageSource(shard) for shard in index.shards}
        self.records: dict[str, bytes] = {}

    def add_all(self, masks: Any) -> None:
        """Add masks by id, pairs of id and mask, or mask items. Raises UsageError, BadData, MissingInput."""
        for element in masks.items() if isinstance(masks, Mapping) else masks:
            if isinstance(element, MaskItem):
                self.add(element.id, element.mask, element.confidence)
            elif isinstance(element, tuple) and len(element) == 2:
                self.add(element[0], element[1], None)
            else:
                raise UsageError(f"masks contains a {type(element).__name__} that is not a pair (id, mask)",
                                 "Pass a dictionary of masks by id, or pairs such as zip(ids, masks)")
        if not self.records:
            raise MissingInput("there are no masks", "Pass a dictionary of masks by id, or pairs such as "
                               "zip(ids, masks)")

    def add(self, item_id: Any, mask: Any, confidence: np.ndarray | None) -> None:
        """Add one mask. Raises UsageError, BadData."""
        if not isinstance(item_id, str) or item_id not in self.index:
            raise BadData(f"the index has no image {item_id!r}", suggest_similar(str(item_id), self.index.ids, "ids"),
                          where=str(self.index.first.path))
        if item_id in self.records:
            raise BadData("there are two masks of this image", "Pass one mask per image", where=item_id)
        shard = self.index.shard_by_id[item_id]
        array, size = self.values.convert(mask, item_id), self.sources[shard.path].read_size(item_id)
        if array.shape != size:
            raise BadData(f"the mask has the size {array.shape}, but the image {size} (height, width)",
                          "Resize the mask to the image with nearest neighbours", where=item_id)
        if self.sources[shard.path].read_labels(item_id) != ():
            self.counts.add(array)
        datasets = {"mask": array} if confidence is None else {"mask": array, "confidence": confidence}
        self.records[item_id] = zlib.compress(pack_record(0, Item(item_id, datasets)), 1)

    def read(self, item_id: str) -> Item:
        """Return the item of an image."""
        return unpack_record(zlib.decompress(self.records[item_id]))[1]

    def compute_digest(self) -> str:
        """Return the sha256 of all masks, whatever their order was."""
        digest = hashlib.sha256()
        for item_id in sorted(self.records):
            digest.update(zlib.decompress(self.records[item_id]))
        return digest.hexdigest()

    def report_coverage(self, report: CollectingReport) -> None:
        """Report how many images have a mask, and warn of masks that are almost only background."""
        num_images = sum(len(shard.ids) - len(shard.errors) for shard in self.index.shards)
        if len(self.records) < num_images:
            report.info(f"{len(self.records)} of {num_images} images of the index have a mask; the others are not part "
                        "of the run.")
        warning = self.counts.build_warning(_HINT, _HINT)
        if warning:
            report.info(warning)


def _group_by_part(packed: _PackedMasks, index: Run, shard_size: int) -> list[tuple[Shard, list[str]]]:
    """Return (index shard, ids) of every part: slices of an index in one part, else the parts of the index."""
    groups = [(shard, [item_id for item_id in shard.ids if item_id in packed.records]) for shard in index.shards]
    if len(groups) > 1:
        return groups
    shard, ids = groups[0]
    return [(shard, ids[start:start + shard_size]) for start in range(0, len(ids), shard_size)]


def _select_records(index: Shard, ids: Iterable[str]) -> np.ndarray | None:
    """Return the image records (n, 5) of some images of an index, by which any index of these images is accepted."""
    records = read_image_records(index)
    positions = {item_id: position for position, item_id in enumerate(index.ids)}
    return None if records is None else records[[positions[item_id] for item_id in ids]]


def _write_part(output: Output, packed: _PackedMasks, entry: dict[str, Any], index: Shard, ids: Iterable[str],
                number: int, parts: int, report: CollectingReport) -> bool:
    """Write one shard; return False if it is up to date. Raises UsageError, CannotCreate, IoFailed."""
    path = shard_output_path(output, "masks", number, parts)
    if output.is_file and parts > 1:
        raise UsageError(f"{path} is one file, but there are {parts} parts", "Pass a folder, or a larger shard_size")
    list_sibling_shards(path)
    request = {**extract_request(entry), "part": f"{number}/{parts}"}
    is_up_to_date = find_finished_shard(path, request, output) is not None
    if not is_up_to_date:
        folder = Path(os.path.abspath(path.parent))
        make_folder(folder)
        items = [packed.read(item_id) for item_id in ids]
        digest = write_shard(path, ShardContents(
            "masks", packed.index.classes, items, number, parts, [*index.provenance, entry],
            index_digest=index.digest, index_path=os.path.relpath(os.path.abspath(index.path), folder),
            image_records=_select_records(index, ids)))
        write_log(output, {"path": path.name, "digest": digest, "items": len(items), "errors": 0})
    report.print_path(path)
    return not is_up_to_date
