"""`index`: reads a data set and writes its index; the only stage that knows the layouts of data sets on disk."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.image_source import find_image_root, read_image_bytes
from stages.data.images import check_image
from stages.data.masks import decode_mask
from stages.data.records import ImageRecord, Listing, describe_count
from stages.errors import BadData, CannotCreate, MissingInput, Stopped, UsageError
from stages.flow.device import count_cores
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.make_part import write_log
from stages.flow.parts import list_sibling_shards, shard_output_path
from stages.index.config import IndexConfig, SplitConfig
from stages.index.layouts import MULTI_PATH_LAYOUTS, read_listing
from stages.nets.net_description import read_verified_description
from stages.settings import to_json_dict
from stages.shards import (
    Item,
    Run,
    Shard,
    ShardContents,
    describe_differences,
    encode_strings,
    provenance_entry,
    validate_item_id,
    write_shard,
)
from stages.shards.disk import make_folder

# Notes by the value of --apply-exif; they complete the sentence "3 of 40 images ...".
_EXIF_NOTES = {False: "have an EXIF orientation, which is not applied (see --apply-exif)",
               True: "are rotated according to their EXIF orientation"}
_DOMAIN_NAMES = {"single": "one class", "multi": "more than one class"}


@dataclass(frozen=True)
class _IndexContents:
    """The contents of an index, before it is divided into shards."""

    classes: tuple[str, ...]
    root: Path
    provenance: list[dict[str, Any]]
    items: list[Item]


@dataclass(frozen=True)
class _ItemTask:
    """The inputs that the threads which create items share."""

    listing: Listing
    config: IndexConfig


def run(layout: str, config: IndexConfig, inputs: Inputs, output: Output, *, stop: Stop,
        report: Report) -> Summary:
    """Write the index of a data set: one file, or shards of `shard_size` images.

    Raises UsageError, MissingInput, BadData (an invalid list or table), CannotCreate (73).
    """
    _check_num_paths(layout, len(inputs.paths))
    if output.is_file:
        output.check_not_folder()
    classes, digests = _read_net_classes(inputs.named)
    report.start_phase("reading the lists")
    listing = read_listing(layout, [Path(path) for path in inputs.paths], config, inputs.named, classes)
    for note in listing.notes:
        report.info(note)
    if not listing.records:
        raise MissingInput("no images were found", f"See `wsss index {layout} --help` for the files that it expects",
                           where=str(listing.root))
    for record in listing.records:
        validate_item_id(record.id, where=record.path)
    if output.dry_run and (output.force or not output.path.exists()):
        report.info(f"Would index {len(listing.records)} images of {len(listing.classes) - 1} classes.")
        return Summary()
    items = _create_items(_ItemTask(listing, config), output, stop, report)
    label_map = {"label_map": listing.label_map} if listing.label_map else {}
    settings = {**to_json_dict(config), "supervision": listing.supervision, **label_map}
    entry = provenance_entry("index", layout, settings, digests)
    summary = _write_shards(_IndexContents(listing.classes, listing.root, [entry], items), config.shard_size, output,
                            report)
    rejected = [item for item in items if item.error is not None]
    if rejected:
        report.info(f"{len(rejected)} of {len(items)} images were rejected, the first: {rejected[0].error}")
    return summary


def _read_net_classes(named: Mapping[str, str | None]) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    """Return (the classes of the network `--classes-of`, its sha256 for the provenance), or (None, {}) without one.

    Raises UsageError together with `--class-names`, BadData if the network has no classes.
    """
    net = named.get("classes_of")
    if net is None:
        return None, {}
    if named.get("class_names"):
        raise UsageError("--class-names and --classes-of both name the classes", "Use one of them")
    description = read_verified_description(net)
    classes = tuple(description["classes"])
    if len(classes) < 2:
        raise BadData(f"the network was trained for {description['task']} and has no classes",
                      "Use a network trained by `wsss train-cls` or `wsss train-seg`", where=net)
    return classes, {"classes_of": description["sha256"]}


def _check_num_paths(layout: str, num_paths: int) -> None:
    if not num_paths:
        raise UsageError(f"index {layout} needs an input path", f"See `wsss index {layout} --help` for an example")
    if num_paths > 1 and layout not in MULTI_PATH_LAYOUTS:
        raise UsageError(f"index {layout} takes one input path, not {num_paths}",
                         "Run the command once per path, with another -o each time")


def run_split(config: SplitConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the single-label or the multi-label images of an index to an index of their own (CSD, section 3.1).

    The items are copied unchanged. Images with unknown labels or without classes belong to neither domain.
    Raises UsageError, MissingInput, BadData (no such image), CannotCreate (73).
    """
    if config.single == config.multi:
        raise UsageError("exactly one of --single and --multi is needed", "Give either --single or --multi")
    if output.is_file:
        output.check_not_folder()
    report.start_phase("reading the index")
    index = Run(inputs.paths, "index")
    domain = _select_domain(index, config, stop, report)
    entry = provenance_entry("index", "split", to_json_dict(config), {"index": index.digest})
    items = [shard.item(item_id) for shard, item_id in domain]
    contents = _IndexContents(index.classes, find_image_root(index), [*index.first.provenance, entry], items)
    return _write_shards(contents, config.shard_size, output, report)


def _select_domain(index: Run, config: SplitConfig, stop: Stop, report: Report) -> list[tuple[Shard, str]]:
    """Return the images of the domain, and report how many others there are and why they are left out.

    Raises BadData if there are none.
    """
    groups: dict[str, list[tuple[Shard, str]]] = {"single": [], "multi": [], "none": [], "unknown": []}
    report.start_progress("", sum(len(shard.ids) for shard in index.shards))
    for shard in index.shards:
        for item_id, labels in shard.iterate_datasets("labels"):
            if stop.requested:
                raise Stopped("stopped by a signal", "Run the same command again")
            groups[_find_domain(labels)].append((shard, item_id))
            report.advance()
    domain, other_domain = ("single", "multi") if config.single else ("multi", "single")
    counts = {name: len(images) for name, images in groups.items()}
    num_rejected = sum(len(shard.errors) for shard in index.shards)
    others = (f"{counts[other_domain]} with {_DOMAIN_NAMES[other_domain]}, {counts['none']} without classes, "
              f"{counts['unknown']} with unknown labels, {num_rejected} rejected by the index")
    if not counts[domain]:
        raise BadData(f"no image has {_DOMAIN_NAMES[domain]} (images: {others})",
                      "Check the tags of the index with `wsss info`", where=str(index.first.path))
    report.info(f"Keeping {counts[domain]} images with {_DOMAIN_NAMES[domain]}; leaving out {others}.")
    return groups[domain]


def _find_domain(labels: np.ndarray | None) -> str:
    if labels is None:
        return "unknown"
    num_classes = len(set(labels.tolist()))
    return ("none", "single")[num_classes] if num_classes < 2 else "multi"


def _create_items(task: _ItemTask, output: Output, stop: Stop, report: Report) -> list[Item]:
    report.start_progress("", len(task.listing.records))
    items, note_counts = [], Counter[str]()
    with ThreadPoolExecutor(min(8, count_cores())) as pool:
        # With --tags-only no file is read, so threads would not help.
        map_records = map if task.config.tags_only else pool.map
        for item, notes in map_records(lambda record: _create_item(record, task), task.listing.records):
            items.append(item)
            note_counts.update(notes)
            for note in notes:
                report.debug(f"{item.attrs['path']} is among the images that {note}.")
            report.advance()
            if output.strict and item.error is not None:
                pool.shutdown(cancel_futures=True)
                raise BadData(item.error, "Repair the image, or leave out --strict", where=item.id)
            if stop.requested:
                pool.shutdown(cancel_futures=True)
                raise Stopped("stopped by a signal", "Run the same command again")
    report.start_phase("writing")
    for note, count in sorted(note_counts.items()):
        for line in describe_count(count, len(items), note):
            report.info(line)
    return items


def _create_item(record: ImageRecord, task: _ItemTask) -> tuple[Item, tuple[str, ...]]:
    """Return (the item of an image, notes about the image for the user).

    If the image or its mask is rejected, the item has the reason instead of contents.
    """
    attrs: dict[str, Any] = {"path": record.path}
    datasets: dict[str, np.ndarray] = {}
    if record.labels is not None:
        datasets["labels"] = np.array(record.labels, dtype="<u2")
    if record.captions:
        datasets["captions"] = encode_strings(record.captions)
    if record.mask_path is not None:
        attrs["mask_path"] = record.mask_path
    if record.byte_range is not None:
        attrs["offset"], attrs["bytes"] = record.byte_range
    notes: tuple[str, ...] = ()
    if not task.config.tags_only:
        try:
            notes = _add_image(record, task, attrs, datasets)
        except BadData as error:
            return Item(record.id, error=str(error)), ()
    return Item(record.id, datasets, attrs), notes


def _add_image(record: ImageRecord, task: _ItemTask, attrs: dict[str, Any],
               datasets: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Check an image and its mask, add their properties to `attrs` and `datasets`, and return notes for the user.

    Raises BadData if the image or its mask is rejected.
    """
    config, listing = task.config, task.listing
    data = read_image_bytes(listing.root, record.path, record.byte_range)
    header = check_image(data, where=record.path, max_pixels=config.max_pixels)
    is_turned = config.apply_exif and header.orientation >= 5
    height, width = (header.width, header.height) if is_turned else (header.height, header.width)
    attrs.update(height=height, width=width, bytes=len(data), crc32=zlib.crc32(data))
    if config.pack:
        datasets["image"] = np.frombuffer(data, dtype=np.uint8)
    if record.mask_path is not None:
        mask = read_image_bytes(listing.root, record.mask_path)
        decode_mask(mask, where=record.mask_path, num_classes=len(listing.classes) - 1, size=(height, width),
                    max_pixels=config.max_pixels, label_map=listing.label_map)
        attrs["mask_crc32"] = zlib.crc32(mask)
        if config.pack:
            datasets["mask"] = np.frombuffer(mask, dtype=np.uint8)
    return header.notes + ((_EXIF_NOTES[config.apply_exif],) if header.orientation != 1 else ())


def _write_shards(index: _IndexContents, shard_size: int, output: Output, report: Report) -> Summary:
    size = shard_size or len(index.items)
    num_parts = -(-len(index.items) // size)
    if output.is_file and num_parts > 1:
        raise CannotCreate(f"the output is one file, but --shard-size {size} makes {num_parts} shards",
                           "Give a folder as -o, or leave out --shard-size", where=str(output.path))
    list_sibling_shards(shard_output_path(output, "index", 0, num_parts))
    summary = Summary()
    for part in range(num_parts):
        path = shard_output_path(output, "index", part, num_parts)
        folder = Path(os.path.abspath(path.parent))
        items = index.items[part * size:(part + 1) * size]
        root = os.path.relpath(os.path.abspath(index.root), folder)
        contents = ShardContents("index", index.classes, items, part=part, parts=num_parts,
                                 provenance=index.provenance, root_attrs={"root": root})
        part_summary = _write_if_changed(path, contents, output)
        summary.add(part_summary)
        if part_summary.num_up_to_date:
            report.info(f"{path} is up to date.")
        elif output.dry_run:
            report.info(f"Would write {path} ({len(items)} images).")
        if part_summary.num_up_to_date or not output.dry_run:
            report.print_path(path)
    return summary


def _write_if_changed(path: Path, contents: ShardContents, output: Output) -> Summary:
    """Write a shard unless the same one exists or this is a dry run. Raises CannotCreate if another one exists."""
    num_failed = sum(item.error is not None for item in contents.items)
    if path.exists() and not output.force:
        existing = Shard(path)
        changes = _describe_changes(existing, contents)
        if not changes:
            if not output.dry_run:
                os.utime(path)
            return Summary(num_up_to_date=1, num_images=len(contents.items), num_failed=num_failed)
        if not (output.retry and existing.errors):
            raise CannotCreate(f"the file already exists with different contents ({changes})",
                               "Use --force to replace it, or choose another -o", where=str(path))
    if output.dry_run:
        return Summary()
    make_folder(path.absolute().parent)
    digest = write_shard(path, contents)
    write_log(output, {"path": path.name, "digest": digest, "items": len(contents.items), "errors": num_failed})
    return Summary(num_written=1, num_images=len(contents.items), num_failed=num_failed)


def _describe_changes(existing: Shard, contents: ShardContents) -> str:
    from stages.shards.writer import encode_shard
    if existing.kind == "index" and encode_shard(contents)[1] == existing.digest:
        return ""
    recorded = existing.provenance[-1] if existing.provenance else {}
    return describe_differences(recorded, dict(contents.provenance[-1])) or "the images, tags or masks have changed"
