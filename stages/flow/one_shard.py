"""What a reduce stage does about a shard: is the one asked for there already, and writing it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.errors import UsageError
from stages.flow.execution import Output, Summary
from stages.flow.finished import finished_shard
from stages.flow.make_part import write_log
from stages.shards import Contents, Item, request_of, write_shard
from stages.shards.disk import make_folder


def check_one_file(output: Output) -> None:
    """Raise UsageError unless the output is FILE.h5, CannotCreate where it can't be made."""
    if not output.is_file:
        raise UsageError(f"-o {output.path} is to be one file", "give FILE.h5")
    output.check_file()


def shard_before(path: Path, entry: Mapping[str, Any], output: Output, *, part: str = "0/1") -> Summary | None:
    """Return the summary of a finished shard at `path`, the one asked for, touched; None where it is to be made.

    `entry` is what its provenance is to end with. Raises CannotCreate when there is another file.
    """
    there = finished_shard(path, {**request_of(dict(entry)), "part": part}, output)
    if there is None:
        return None
    if not output.dry_run:
        os.utime(path)
    return Summary(up_to_date=1, items=len(there.ids), errors=len(there.errors))


def write_one_shard(output: Output, contents: Contents, index: tuple[str, Path],
                    refused: Iterable[tuple[str, str]]) -> Summary:
    """Write `contents` (without items) made on the index of this (digest, path), with the refused images it had."""
    folder = Path(os.path.abspath(output.path.parent))
    make_folder(folder)
    digest, path = index
    items = [Item(item_id, error=told) for item_id, told in refused]
    whole = replace(contents, items=items, index_digest=digest,
                    index_path=os.path.relpath(os.path.abspath(path), folder))
    count = len(whole.ids or ())
    write_log(output, {"path": output.path.name, "digest": write_shard(output.path, whole), "items": count,
                       "errors": len(items)})
    return Summary(made=1, items=count, errors=len(items))
