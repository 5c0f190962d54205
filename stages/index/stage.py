"""`index`: reads a data set and writes its index; the only stage that knows the layouts of data sets on disk."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.image_source import find_image_root
from stages.data.index_statistics import summarise_items
from stages.data.index_summary import SUMMARY_ATTRIBUTE, encode_summary, name_classes
from stages.data.mask_values import MaskValues, read_mask_values
from stages.data.records import Listing, describe_count
from stages.data.skipped_files import describe_skipped_files, find_skipped_files
from stages.errors import BadData, CannotCreate, MissingInput, Stopped, UsageError
from stages.flow.device import count_cores
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.make_part import write_log
from stages.flow.parts import list_sibling_shards, shard_output_path
from stages.index.config import IndexConfig, SplitConfig
from stages.index.hold_out import describe_division, divide_images
from stages.index.layouts import MULTI_PATH_LAYOUTS, NamedInputs, find_image_folder, read_listing
from stages.index.mask_comparison import compare_masks
from stages.index.summary_table import format_summary
from stages.index.workers import ItemTask, create_item
from stages.nets.net_description import read_verified_description
from stages.settings import to_json_dict
from stages.shards import (
    Item,
    Run,
    Shard,
    ShardContents,
    build_image_records,
    describe_differences,
    group_equal_images,
    provenance_entry,
    read_image_records,
    validate_item_id,
    write_shard,
)
from stages.shards.disk import make_folder, replace_file

_DOMAIN_NAMES = {"single": "one class", "multi": "more than one class"}


@dataclass(frozen=True)
class _IndexContents:
    """The contents of an index, before it is divided into shards."""

    classes: tuple[str, ...]
    root: Path
    provenance: list[dict[str, Any]]
    items: list[Item]


def run(layout: str, config: IndexConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report,
        summary_path: Path | None = None) -> Summary:
    """Write the index of a data set: one file, or shards of `shard_size` images; the summary as JSON to `summary_path`.

    Raises UsageError, MissingInput, BadData (an invalid list or table), CannotCreate (73).
    """
    paths = [Path(path) for path in inputs.paths]
    _check_num_paths(layout, len(paths))
    if output.is_file:
        output.check_not_folder()
    classes, digests = _read_net_classes(inputs.named)
    report.start_phase("reading the lists")
    listing = read_listing(layout, paths, config, inputs.named, classes)
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
    values = _read_mask_values(config, listing, layout)
    task = ItemTask(listing, replace(config, mask_values=values.text), values)
    label_map = {"label_map": listing.label_map} if listing.label_map else {}
    settings = {**to_json_dict(task.config), "supervision": listing.supervision, **label_map}
    entry = provenance_entry("index", layout, settings, digests)
    if output.task is not None:
        return _write_shards_of_task(task, entry, output, summary_path, stop, report)
    report.start_progress("", len(listing.records))
    items = _create_items(task, output, stop, report)
    _compare_masks(task, report)
    summary = _write_shards(_IndexContents(listing.classes, listing.root, [entry], items), config.shard_size, output,
                            report)
    rejected = [item for item in items if item.error is not None]
    if rejected:
        report.info(f"{len(rejected)} of {len(items)} images were rejected, the first: {rejected[0].error}")
    skipped = () if config.tags_only else _find_skipped(layout, paths, inputs.named, listing)
    contents = _report_contents(items, listing, skipped, None if output.dry_run else summary_path, report)
    return replace(summary, contents=contents)


def _read_mask_values(config: IndexConfig, listing: Listing, layout: str) -> MaskValues:
    """Return the mapping of `--mask-values`. Raises UsageError or BadData, also if the layout has a mapping itself."""
    if config.mask_values and listing.label_map:
        raise UsageError(f"index {layout} converts the values of masks by the label map {listing.label_map}",
                         "Leave out --mask-values, or use `wsss index table`", where="--mask-values")
    return read_mask_values(config.mask_values, listing.classes)


def _find_skipped(layout: str, paths: list[Path], named: NamedInputs, listing: Listing) -> tuple[str, ...]:
    """Return sentences about the files next to the images that are not in the index."""
    folder = find_image_folder(layout, paths, named)
    if folder is None:
        return ()
    images = [listing.root / path for record in listing.records for path in (record.path, record.mask_path) if path]
    inputs = [Path(path).absolute() for path in [*paths, *named.values()] if path]
    masks = named.get("masks")
    skipped = find_skipped_files(folder, [*images, *inputs], [Path(masks)] if masks else [])
    return describe_skipped_files(skipped, "a sub-folder of a class" if layout == "folder" else str(paths[0]))


def _report_contents(items: list[Item], listing: Listing, skipped: tuple[str, ...], summary_path: Path | None,
                     report: Report) -> dict[str, Any]:
    """Show the table of what the index contains, write it as JSON to `summary_path`, and return it."""
    failures = {item.id: item.error for item in items if item.error is not None}
    summary = summarise_items(items, listing.classes)
    for line in format_summary(summary, listing.classes, failures, skipped):
        report.info(line)
    contents = {**name_classes(summary, listing.classes), "failures": failures, "skipped": list(skipped)}
    if summary_path:
        make_folder(summary_path.absolute().parent)
        replace_file(summary_path, (json.dumps(contents, indent=1, ensure_ascii=False) + "\n").encode())
    return contents


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
    """Write part of the images of an index to an index of their own.

    The parts are the single-label or the multi-label images (CSD, section 3.1; images with unknown labels or without
    classes belong to neither), or the images to train with and those that are held out, which `inputs.named` says
    where to write. The items are copied unchanged.
    Raises UsageError, MissingInput, BadData (no such image), CannotCreate (73).
    """
    held_out = inputs.named.get("held_out")
    _check_split(config, inputs, output)
    report.start_phase("reading the index")
    index = Run(inputs.paths, "index")
    if held_out is None:
        return _write_selection(index, _select_domain(index, config, stop, report), {}, config, output, report)
    training, others = _hold_out(index, config, stop, report)
    # Held-out images first: an interrupted command has not written the index that later steps train with.
    held_out_output = replace(output, path=Path(held_out))
    summary = _write_selection(index, others, {"part": "held out"}, config, held_out_output, report)
    summary.add(_write_selection(index, training, {"part": "training"}, config, output, report))
    return summary


def _check_split(config: SplitConfig, inputs: Inputs, output: Output) -> None:
    held_out = inputs.named.get("held_out")
    if config.single + config.multi + (config.holdout > 0) != 1:
        raise UsageError("exactly one of --single, --multi and --holdout is needed",
                         "Give one of them, such as --holdout 0.2")
    if (held_out is not None) != (config.holdout > 0):
        raise UsageError("--holdout and --held-out are given together: the share, and where to write these images",
                         "For example --holdout 0.2 --held-out val.h5")
    if held_out is not None and Path(held_out).resolve() == output.path.resolve():
        raise UsageError(f"-o and --held-out are both {held_out}", "Give two different files")
    for written in [output] if held_out is None else [output, replace(output, path=Path(held_out))]:
        written.check_not_input(replace(inputs, named={}))
        if written.is_file:
            written.check_not_folder()


def _write_selection(index: Run, selection: list[tuple[Shard, str]], part: dict[str, str], config: SplitConfig,
                     output: Output, report: Report) -> Summary:
    entry = provenance_entry("index", "split", {**to_json_dict(config), **part}, {"index": index.digest})
    items = [shard.item(item_id) for shard, item_id in selection]
    contents = _IndexContents(index.classes, find_image_root(index), [*index.first.provenance, entry], items)
    return _write_shards(contents, config.shard_size, output, report)


def _hold_out(index: Run, config: SplitConfig, stop: Stop,
              report: Report) -> tuple[list[tuple[Shard, str]], list[tuple[Shard, str]]]:
    """Return the images to train with and the held-out ones, and report the classes of both."""
    report.start_progress("", sum(len(shard.ids) for shard in index.shards))
    images, labels, records = [], [], []
    for shard in index.shards:
        record_of = dict(zip(shard.ids, read_image_records(shard), strict=True))
        for item_id, ids in shard.iterate_datasets("labels"):
            if stop.requested:
                raise Stopped("stopped by a signal", "Run the same command again")
            images.append((shard, item_id))
            labels.append(ids)
            records.append(record_of[item_id])
            report.advance()
    copies = group_equal_images(np.array(records))
    is_held_out = divide_images(labels, copies, len(index.classes) - 1, config.holdout, config.seed,
                                str(index.first.path))
    for line in describe_division(labels, is_held_out, index.classes):
        report.info(line)
    return ([image for image, is_out in zip(images, is_held_out, strict=True) if not is_out],
            [image for image, is_out in zip(images, is_held_out, strict=True) if is_out])


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


def _create_items(task: ItemTask, output: Output, stop: Stop, report: Report) -> list[Item]:
    items, note_counts = [], Counter[str]()
    with ThreadPoolExecutor(output.jobs or min(8, count_cores())) as pool:
        # With --tags-only no file is read, so threads would not help.
        map_records = map if task.config.tags_only else pool.map
        for item, notes in map_records(lambda record: create_item(record, task), task.listing.records):
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
    report.start_phase("writing" if output.task is None else "")
    for note, count in sorted(note_counts.items()):
        for line in describe_count(count, len(items), note):
            report.info(line)
    return items


def _compare_masks(task: ItemTask, report: Report) -> None:
    """Report images whose mask contradicts their tags. Raises BadData if they are many and not allowed."""
    listing = task.listing
    counts = [task.mask_counts[record.id] for record in listing.records if record.id in task.mask_counts]
    for sentence in compare_masks(counts, listing.classes, task.mask_values, where=str(listing.root),
                                  is_allowed=task.config.allow_contradictions):
        report.info(sentence)


def _write_shards_of_task(task: ItemTask, entry: dict[str, Any], output: Output, summary_path: Path | None, stop: Stop,
                          report: Report) -> Summary:
    """Write every N-th shard of the index, one after the other: in memory are the lists, and the images of one shard.

    Each has the bytes that it has without tasks. Tags and masks are compared within each shard. Raises UsageError
    without a shard size, and for a summary, which is of all images.
    """
    listing, size = task.listing, task.config.shard_size
    if not size:
        raise UsageError("--task needs --shard-size, as each task writes shards of its own",
                         "Add for example --shard-size 10000, the same for every task")
    if summary_path is not None:
        raise UsageError("--summary-json is about all images and --task indexes some of them",
                         "Leave it out, and use `wsss info` on the whole index")
    num_parts, summary = -(-len(listing.records) // size), Summary()
    _check_parts(output, size, num_parts)
    parts = [part for part in range(num_parts) if output.is_assigned(part)]
    if not parts:
        report.info(f"This task has nothing to do: there are only {num_parts} shards.")
    report.start_progress("", sum(min(size, len(listing.records) - part * size) for part in parts))
    for part in parts:
        records = listing.records[part * size:(part + 1) * size]
        part_task = replace(task, listing=replace(listing, records=records), mask_counts={})
        items = _create_items(part_task, output, stop, report)
        _compare_masks(part_task, report)
        index = _IndexContents(listing.classes, listing.root, [entry], items)
        summary.add(_write_part(index, part, num_parts, output, report))
    return summary


def _check_parts(output: Output, size: int, num_parts: int) -> None:
    """Raise CannotCreate for several shards in one file, or in a folder with those of another run."""
    if output.is_file and num_parts > 1:
        raise CannotCreate(f"the output is one file, but --shard-size {size} makes {num_parts} shards",
                           "Give a folder as -o, or leave out --shard-size", where=str(output.path))
    list_sibling_shards(shard_output_path(output, "index", 0, num_parts))


def _write_shards(index: _IndexContents, shard_size: int, output: Output, report: Report) -> Summary:
    size = shard_size or len(index.items)
    num_parts, summary = -(-len(index.items) // size), Summary()
    _check_parts(output, size, num_parts)
    for part in range(num_parts):
        shard_contents = replace(index, items=index.items[part * size:(part + 1) * size])
        summary.add(_write_part(shard_contents, part, num_parts, output, report))
    return summary


def _write_part(index: _IndexContents, part: int, num_parts: int, output: Output, report: Report) -> Summary:
    """Write one shard, with all items of `index`."""
    path = shard_output_path(output, "index", part, num_parts)
    root = os.path.relpath(os.path.abspath(index.root), os.path.abspath(path.parent))
    attributes = {"root": root, SUMMARY_ATTRIBUTE: encode_summary(summarise_items(index.items, index.classes))}
    contents = ShardContents("index", index.classes, index.items, part=part, parts=num_parts,
                             provenance=index.provenance, root_attrs=attributes,
                             image_records=build_image_records(index.items))
    summary = _write_if_changed(path, contents, output)
    if summary.num_up_to_date:
        report.info(f"{path} is up to date.")
    elif output.dry_run:
        report.info(f"Would write {path} ({len(index.items)} images).")
    if summary.num_up_to_date or not output.dry_run:
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
    from stages.shards.writer import has_same_contents
    if existing.kind == "index" and has_same_contents(existing, contents):
        return ""
    recorded = existing.provenance[-1] if existing.provenance else {}
    return describe_differences(recorded, dict(contents.provenance[-1])) or "the images, tags or masks have changed"
