"""`merge`: merges the parts of a run into fewer shards with the same contents."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.image_source import find_image_root
from stages.data.index_statistics import summarise_items
from stages.data.index_summary import SUMMARY_ATTRIBUTE, encode_summary
from stages.errors import BadData, Stopped, UsageError
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.index_lookup import find_index
from stages.flow.make_part import write_log
from stages.flow.parts import list_sibling_shards, shard_output_path
from stages.flow.single_shard import mark_inherited_failures, reuse_existing_shard
from stages.merge.config import MergeConfig
from stages.settings import to_json_dict
from stages.shards import (
    KINDS,
    Item,
    Run,
    Shard,
    ShardContents,
    combine_digests,
    concatenate_rows,
    merge_provenance,
    provenance_entry,
    read_image_records,
    read_in_training,
    write_shard,
)
from stages.shards.disk import make_folder

# Shards of the other kinds are always a single file.
MERGEABLE_KINDS = ("index", "features", "cams", "masks", "regions")


@dataclass(frozen=True)
class _MergedShard:
    """One shard to write, and the input shards that are merged into it."""

    path: Path
    part: int
    parts: int
    shards: Sequence[Shard]


def run(config: MergeConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write a run again in `parts` shards with the same ids in the same order, items, failed images and provenance.

    Raises UsageError, MissingInput (a missing part), BadData (parts that differ), CannotCreate. Needs the memory of
    three times one output shard.
    """
    input_run = Run(inputs.paths, MERGEABLE_KINDS)
    _check_ids(input_run)
    summary = Summary()
    for merged in _plan_shards(input_run, config.parts, output):
        if stop.requested:
            raise Stopped("stopped by a signal", "Run the same command again to resume")
        entry = provenance_entry("merge", "", to_json_dict(config),
                                 {input_run.kind: combine_digests([shard.digest for shard in merged.shards])})
        shard_summary = reuse_existing_shard(merged.path, entry, output, part=f"{merged.part}/{merged.parts}")
        if shard_summary is None and output.dry_run:
            report.info(f"Would merge {len(merged.shards)} shards into {merged.path}")
            continue
        if shard_summary:
            report.info(f"{merged.path} is up to date")
        else:
            report.start_phase(f"writing {merged.path.name}")
        summary.add(shard_summary or _write_merged_shard(merged, input_run, entry, inputs.index, output))
        report.print_path(merged.path)
    return mark_inherited_failures(summary, input_run.shards)


def _check_ids(input_run: Run) -> None:
    """Raise BadData if two parts contain the same id."""
    path_by_id: dict[str, Path] = {}
    for shard in input_run.shards:
        for item_id in shard.ids:
            if path_by_id.setdefault(item_id, shard.path) != shard.path:
                raise BadData(f"the id {item_id} is also in {path_by_id[item_id]}", "Give only parts of one run",
                              where=str(shard.path))


def _plan_shards(input_run: Run, parts: int, output: Output) -> list[_MergedShard]:
    """Divide the run into `parts` groups of consecutive shards."""
    shards = sorted(input_run.shards, key=lambda shard: shard.part)
    if parts > len(shards):
        raise UsageError(f"--parts {parts} is more than the {len(shards)} parts of the run",
                         "Use a smaller --parts; merge can't split parts")
    if output.is_file:
        output.check_not_folder()
        if parts > 1:
            raise UsageError(f"-o {output.path} is one file, but there are {parts} parts",
                             "Give a folder as --output")
    elif any(shard.path.parent.resolve() == output.path.resolve() for shard in shards):
        raise UsageError(f"-o {output.path} is the folder of the run itself", "Choose another --output")
    bounds = [part * len(shards) // parts for part in range(parts + 1)]
    paths = [shard_output_path(output, input_run.kind, part, parts) for part in range(parts)]
    list_sibling_shards(paths[0])
    return [_MergedShard(paths[part], part, parts, shards[bounds[part]:bounds[part + 1]]) for part in range(parts)]


def _write_merged_shard(merged: _MergedShard, input_run: Run, entry: dict[str, Any], index_argument: str | None,
                        output: Output) -> Summary:
    folder = Path(os.path.abspath(merged.path.parent))
    make_folder(folder)
    ids = [item_id for shard in merged.shards for item_id in shard.ids]
    errors = {item_id: error for shard in merged.shards for item_id, error in shard.errors.items()}
    has_items = bool(KINDS[input_run.kind].item)
    items = [item for shard in merged.shards for item in shard.items()] if has_items else [
        Item(item_id, error=errors[item_id]) for item_id in ids if item_id in errors]
    digest = write_shard(merged.path, ShardContents(
        input_run.kind, input_run.classes, items, part=merged.part, parts=merged.parts, ids=ids,
        provenance=[*merge_provenance(merged.shards), entry],
        **_resolve_index_attributes(merged.shards, index_argument, folder),
        root_attrs=_merge_root_attrs(input_run, merged.shards, folder, items),
        root_datasets=_concatenate_rows(merged.shards),
        image_records=concatenate_rows(read_image_records, merged.shards),
        in_training=concatenate_rows(read_in_training, merged.shards)))
    for shard in merged.shards:
        shard.close()
    write_log(output, {"path": merged.path.name, "digest": digest, "items": len(ids), "errors": len(errors)})
    return Summary(num_written=1, num_images=len(ids), num_failed=len(errors))


def _concatenate_rows(shards: Sequence[Shard]) -> dict[str, np.ndarray]:
    """Return the root datasets of a kind without items, the rows of all parts concatenated."""
    return {array.name: np.concatenate([shard.read_root(array.name) for shard in shards])
            for array in KINDS[shards[0].kind].root}


def _merge_root_attrs(input_run: Run, shards: Sequence[Shard], folder: Path, items: list[Item]) -> dict[str, Any]:
    if input_run.kind == "index":
        return {"root": os.path.relpath(find_image_root(input_run), folder),
                SUMMARY_ATTRIBUTE: encode_summary(summarise_items(items, input_run.classes))}
    attributes = {}
    for name in KINDS[input_run.kind].root_attrs:
        path_by_value = {shard.attribute(name): shard.path for shard in shards}
        if len(path_by_value) > 1:
            (first_value, first_path), (value, path), *_ = path_by_value.items()
            raise BadData(f"its {name} is {value}, but that of {first_path} is {first_value}",
                          "Give only parts of one run", where=str(path))
        attributes[name] = next(iter(path_by_value))
    return attributes


def _resolve_index_attributes(shards: Sequence[Shard], index_argument: str | None, folder: Path) -> dict[str, str]:
    """Return the digest and path of the index of the shards; if they have several, of the index merged from them."""
    if shards[0].kind == "index":
        return {}
    digests = sorted({shard.index_digest for shard in shards})
    path = (find_index(shards[0], index_argument) if len(digests) == 1
            else _find_merged_index(shards, digests, index_argument))
    return {"index_digest": Shard(path, "index").digest, "index_path": os.path.relpath(os.path.abspath(path), folder)}


def _find_merged_index(shards: Sequence[Shard], digests: list[str], index_argument: str | None) -> Path:
    """Return the path of the index in --index, merged from the indexes of `digests` or of the same images.

    Raises UsageError without --index, BadData for another index.
    """
    if not index_argument:
        raise UsageError(f"the shards were made from {len(digests)} indexes",
                         "Merge these first with `wsss merge INDEX -o index.h5`, and add --index index.h5")
    index = Shard(index_argument, "index")
    if index.provenance[-1].get("inputs", {}).get("index") == combine_digests(digests):
        return index.path
    if any(read_image_records(shard) is None for shard in shards):
        raise BadData("was not merged from the indexes of these shards", "Merge those indexes and no others",
                      where=index_argument)
    for shard in shards:
        find_index(shard, index_argument)
    return index.path
