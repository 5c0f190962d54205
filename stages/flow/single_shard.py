"""Reuses or writes the single output shard of a reduce stage."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.errors import UsageError
from stages.flow.execution import Output, Summary
from stages.flow.existing_output import find_finished_shard
from stages.flow.make_part import write_log
from stages.shards import Item, Shard, ShardContents, extract_request, write_shard
from stages.shards.disk import make_folder


def check_single_file(output: Output) -> None:
    """Raise UsageError unless the output is FILE.h5, CannotCreate if it is a folder."""
    if not output.is_file:
        raise UsageError(f"-o {output.path} is not the name of a shard, but this command writes one",
                         "Use --output FILE.h5")
    output.check_not_folder()


def reuse_existing_shard(path: Path, entry: Mapping[str, Any], output: Output, *, part: str = "0/1") -> Summary | None:
    """Touch the shard at `path` and return its summary if it is up to date; None if it has to be made.

    It is up to date if its provenance ends with `entry`. Raises CannotCreate if another file exists.
    """
    shard = find_finished_shard(path, {**extract_request(dict(entry)), "part": part}, output)
    if shard is None:
        return None
    if not output.dry_run:
        os.utime(path)
    return Summary(num_up_to_date=1, num_images=len(shard.ids), num_failed=len(shard.errors))


def write_single_shard(output: Output, contents: ShardContents, index: tuple[str, Path],
                       failed: Iterable[tuple[str, str]]) -> Summary:
    """Write `contents` (without items) made from the index (digest, path), with its `failed` images (id, error)."""
    folder = Path(os.path.abspath(output.path.parent))
    make_folder(folder)
    digest, path = index
    items = [Item(item_id, error=error) for item_id, error in failed]
    complete = replace(contents, items=items, index_digest=digest,
                       index_path=os.path.relpath(os.path.abspath(path), folder))
    num_images = len(complete.ids or ())
    write_log(output, {"path": output.path.name, "digest": write_shard(output.path, complete), "items": num_images,
                       "errors": len(items)})
    return Summary(num_written=1, num_images=num_images, num_failed=len(items))


def mark_inherited_failures(summary: Summary, shards: Sequence[Shard]) -> Summary:
    """Return the summary of a command that computes nothing per image: its failed images failed in the input shards."""
    failed_input = next((str(shard.path) for shard in shards if shard.errors), "")
    return replace(summary, num_inherited=summary.num_failed, failed_input=failed_input)
