"""`index`: the only stage that knows how data sets lie on disk."""

from __future__ import annotations

import os
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.images import decode_with_header
from stages.data.masks import decode_mask
from stages.data.records import Listing, Record, counted
from stages.data.source import read_bytes, root_of
from stages.errors import BadData, CannotCreate, MissingInput, Stopped, UsageError
from stages.flow.device import cores
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.make_part import write_log
from stages.flow.parts import beside_alone, place_of
from stages.index.config import IndexConfig, SplitConfig
from stages.index.layouts import MANY, read_listing
from stages.settings import as_plain
from stages.shards import (
    Contents,
    Item,
    Run,
    Shard,
    checked_id,
    differences,
    provenance_entry,
    strings,
    write_shard,
)
from stages.shards.disk import make_folder

# By whether --apply-exif is given.
_EXIF = {False: "have an EXIF orientation, which is not applied (see --apply-exif)",
         True: "are turned as their EXIF orientation says"}
_BEAR = {"one": "one class", "several": "more than one class"}


@dataclass(frozen=True)
class _Made:
    """What an index is to hold."""

    classes: tuple[str, ...]
    root: Path
    provenance: list[dict[str, Any]]
    items: list[Item]


@dataclass(frozen=True)
class _Task:
    """What the threads that open images share."""

    listing: Listing
    config: IndexConfig


def run(layout: str, config: IndexConfig, inputs: Inputs, output: Output, *, stop: Stop,
        report: Report) -> Summary:
    """Write the index of a data set: one file, or parts of `shard_size` images.

    Raises MissingInput, BadData (a list or table that can't be meant so), CannotCreate (73).
    """
    places = list(inputs.paths)
    if not places or (len(places) > 1 and layout not in MANY):
        raise UsageError(f"index {layout} takes {'archives' if layout in MANY else 'one place'}, not {len(places)}",
                         "see --help")
    if output.is_file:
        output.check_file()
    listing = read_listing(layout, [Path(place) for place in places], config, inputs.named)
    for note in listing.notes:
        report.tell(note)
    if not listing.records:
        raise MissingInput("no image was found", "see --help for the layout", where=str(listing.root))
    for record in listing.records:
        checked_id(record.id, where=record.path)
    if output.dry_run and (output.force or not output.path.exists()):
        report.tell(f"would index {len(listing.records)} images of {len(listing.classes) - 1} classes")
        return Summary()
    items = _items(_Task(listing, config), output, stop, report)
    told = {"label_map": listing.label_map} if listing.label_map else {}
    entry = provenance_entry("index", layout, {**as_plain(config), "supervision": listing.supervision, **told}, {})
    summary = _write(_Made(listing.classes, listing.root, [entry], items), config.shard_size, output, report)
    refused = [item for item in items if item.error is not None]
    if refused:
        report.tell(f"{len(refused)} of {len(items)} images refused, the first: {refused[0].error}")
    return summary


def run_split(config: SplitConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the single-label or the multi-label images of an index as an index of their own (CSD, section 3.1).

    Everything else of the images stays as it was. Those with unknown labels or none belong to neither domain.
    Raises UsageError, MissingInput, BadData (no such image), CannotCreate (73).
    """
    if config.single == config.multi:
        raise UsageError("give either --single or --multi")
    if output.is_file:
        output.check_file()
    index = Run(inputs.paths, "index")
    chosen = _domain(index, config, stop, report)
    entry = provenance_entry("index", "split", as_plain(config), {"index": index.digest})
    items = [shard.item(item_id) for shard, item_id in chosen]
    made = _Made(index.classes, root_of(index), [*index.first.provenance, entry], items)
    return _write(made, config.shard_size, output, report)


def _domain(index: Run, config: SplitConfig, stop: Stop, report: Report) -> list[tuple[Shard, str]]:
    """Return the images of the domain, and tell how many are left out and why. Raises BadData when there are none."""
    kinds: dict[str, list[tuple[Shard, str]]] = {"one": [], "several": [], "none": [], "unknown": []}
    report.begin("images", sum(len(shard.ids) for shard in index.shards))
    for shard in index.shards:
        for item_id, labels in shard.each("labels"):
            if stop.requested:
                raise Stopped("stopped", "run the same command again")
            kinds[_kind(labels)].append((shard, item_id))
            report.advance()
    wanted, others = ("one", "several") if config.single else ("several", "one")
    counts = {kind: len(found) for kind, found in kinds.items()}
    refused = sum(len(shard.errors) for shard in index.shards)
    told = (f"{counts[others]} bear {_BEAR[others]}, {counts['none']} bear none, {counts['unknown']} have unknown "
            f"labels, {refused} were refused")
    if not counts[wanted]:
        raise BadData(f"no image bears {_BEAR[wanted]} ({told})", "there is nothing to split off",
                      where=str(index.first.path))
    report.tell(f"{counts[wanted]} images bear {_BEAR[wanted]}; left out: {told}")
    return kinds[wanted]


def _kind(labels: np.ndarray | None) -> str:
    if labels is None:
        return "unknown"
    count = len(set(labels.tolist()))
    return ("none", "one")[count] if count < 2 else "several"


def _items(task: _Task, output: Output, stop: Stop, report: Report) -> list[Item]:
    report.begin("index", len(task.listing.records))
    items, noted = [], Counter[str]()
    with ThreadPoolExecutor(min(8, cores())) as pool:
        # An index of tags opens nothing that could be waited for.
        mapped = map if task.config.tags_only else pool.map
        for item, notes in mapped(lambda record: _item(record, task), task.listing.records):
            items.append(item)
            noted.update(notes)
            for note in notes:
                report.detail(f"{item.attrs['path']} is among the images that {note}")
            report.advance()
            if output.strict and item.error is not None:
                pool.shutdown(cancel_futures=True)
                raise BadData(item.error, "mend it, or leave out --strict", where=item.id)
            if stop.requested:
                pool.shutdown(cancel_futures=True)
                raise Stopped("stopped", "run the same command again")
    for what, count in sorted(noted.items()):
        for line in counted(count, len(items), what):
            report.tell(line)
    return items


def _item(record: Record, task: _Task) -> tuple[Item, tuple[str, ...]]:
    """Return an image's entry and what is to be told of the image.

    The entry has the reason instead where the image or its mask can't be used.
    """
    attrs: dict[str, Any] = {"path": record.path}
    datasets: dict[str, np.ndarray] = {}
    if record.labels is not None:
        datasets["labels"] = np.array(record.labels, dtype="<u2")
    if record.captions:
        datasets["captions"] = strings(record.captions)
    if record.mask_path is not None:
        attrs["mask_path"] = record.mask_path
    if record.span is not None:
        attrs["offset"], attrs["bytes"] = record.span
    notes: tuple[str, ...] = ()
    if not task.config.tags_only:
        try:
            notes = _open(record, task, attrs, datasets)
        except BadData as error:
            return Item(record.id, error=str(error)), ()
    return Item(record.id, datasets, attrs), notes


def _open(record: Record, task: _Task, attrs: dict[str, Any], datasets: dict[str, np.ndarray]) -> tuple[str, ...]:
    config, listing = task.config, task.listing
    data = read_bytes(listing.root, record.path, record.span)
    image, header = decode_with_header(data, where=record.path, max_pixels=config.max_pixels,
                                       apply_exif=config.apply_exif)
    height, width = image.shape[:2]
    attrs.update(height=height, width=width, bytes=len(data), crc32=zlib.crc32(data))
    if config.pack:
        datasets["image"] = np.frombuffer(data, dtype=np.uint8)
    if record.mask_path is not None:
        mask = read_bytes(listing.root, record.mask_path)
        decode_mask(mask, where=record.mask_path, n_classes=len(listing.classes) - 1, size=(height, width),
                    max_pixels=config.max_pixels, label_map=listing.label_map)
        attrs["mask_crc32"] = zlib.crc32(mask)
        if config.pack:
            datasets["mask"] = np.frombuffer(mask, dtype=np.uint8)
    return header.notes + ((_EXIF[config.apply_exif],) if header.orientation != 1 else ())


def _write(made: _Made, shard_size: int, output: Output, report: Report) -> Summary:
    size = shard_size or len(made.items)
    parts = -(-len(made.items) // size)
    if output.is_file and parts > 1:
        raise CannotCreate(f"is one file, but --shard-size {size} makes {parts} parts", "give a folder",
                           where=str(output.path))
    beside_alone(place_of(output, "index", 0, parts))
    summary = Summary()
    for part in range(parts):
        path = place_of(output, "index", part, parts)
        folder = Path(os.path.abspath(path.parent))
        chosen = made.items[part * size:(part + 1) * size]
        root = os.path.relpath(os.path.abspath(made.root), folder)
        contents = Contents("index", made.classes, chosen, part=part, parts=parts, provenance=made.provenance,
                            root_attrs={"root": root})
        done = _put(path, contents, output)
        summary.add(done)
        if done.up_to_date:
            report.tell(f"{path} is up to date")
        elif output.dry_run:
            report.tell(f"would write {path} ({len(chosen)} images)")
        if done.up_to_date or not output.dry_run:
            report.finished(path)
    return summary


def _put(path: Path, contents: Contents, output: Output) -> Summary:
    """Write an index, unless the same is there or in a dry run; 73 when another one is."""
    errors = sum(item.error is not None for item in contents.items)
    if path.exists() and not output.force:
        there = Shard(path)
        changed = _changes(there, contents)
        if not changed:
            if not output.dry_run:
                os.utime(path)
            return Summary(up_to_date=1, items=len(contents.items), errors=errors)
        if not (output.retry and there.errors):
            raise CannotCreate(f"exists with other contents ({changed})", "give another -o, or --force to replace it",
                               where=str(path))
    if output.dry_run:
        return Summary()
    make_folder(path.absolute().parent)
    digest = write_shard(path, contents)
    write_log(output, {"path": path.name, "digest": digest, "items": len(contents.items), "errors": errors})
    return Summary(made=1, items=len(contents.items), errors=errors)


def _changes(there: Shard, contents: Contents) -> str:
    from stages.shards.writer import shard_bytes
    if there.kind == "index" and shard_bytes(contents)[1] == there.digest:
        return ""
    recorded = there.provenance[-1] if there.provenance else {}
    return differences(recorded, dict(contents.provenance[-1])) or "the images, tags or masks have changed"
