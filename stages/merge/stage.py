"""`merge`: the parts of a run, joined into fewer shards that say the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.source import root_of
from stages.errors import BadData, Stopped, UsageError
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.make_part import write_log
from stages.flow.one_shard import shard_before
from stages.flow.parts import beside_alone, find_index, place_of
from stages.merge.config import MergeConfig
from stages.settings import as_plain
from stages.shards import (
    KINDS,
    Contents,
    Item,
    Run,
    Shard,
    joined_digest,
    joined_history,
    provenance_entry,
    write_shard,
)
from stages.shards.disk import make_folder

# The other kinds are one file by their nature.
MERGED = ("index", "features", "cams", "masks")


@dataclass(frozen=True)
class _Joined:
    """One shard to be written, and the shards of the run that it takes up."""

    path: Path
    part: int
    parts: int
    shards: Sequence[Shard]


def run(config: MergeConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write a run again in `parts` shards: the same ids in the same order, items, refused images and history.

    Raises UsageError, MissingInput (a hole in the run), BadData (parts that differ), CannotCreate. Memory: one of
    the shards to be written, three times.
    """
    whole = Run(inputs.paths, MERGED)
    _check_ids(whole)
    summary = Summary()
    for joined in _plan(whole, config.parts, output):
        if stop.requested:
            raise Stopped("stopped", "run the same command again to go on")
        entry = provenance_entry("merge", "", as_plain(config),
                                 {whole.kind: joined_digest([shard.digest for shard in joined.shards])})
        done = shard_before(joined.path, entry, output, part=f"{joined.part}/{joined.parts}")
        if done is None and output.dry_run:
            report.tell(f"would join {len(joined.shards)} shards to {joined.path}")
            continue
        if done:
            report.tell(f"{joined.path} is up to date")
        summary.add(done or _write(joined, whole, entry, inputs.index, output))
        report.finished(joined.path)
    return summary


def _check_ids(whole: Run) -> None:
    """Raise BadData where an id stands in two parts: a run has each once."""
    seen: dict[str, Path] = {}
    for shard in whole.shards:
        for item_id in shard.ids:
            if seen.setdefault(item_id, shard.path) != shard.path:
                raise BadData(f"the id {item_id} stands in {seen[item_id]} too", "give the parts of one run",
                              where=str(shard.path))


def _plan(whole: Run, parts: int, output: Output) -> list[_Joined]:
    """Cut the run into `parts` stretches of neighbouring shards."""
    shards = sorted(whole.shards, key=lambda shard: shard.part)
    if parts > len(shards):
        raise UsageError(f"--parts {parts} is more than the {len(shards)} parts of the run",
                         "merge joins parts, it does not cut them")
    if output.is_file:
        output.check_file()
        if parts > 1:
            raise UsageError(f"-o {output.path} is one file, but there are {parts} parts", "give a folder")
    elif any(shard.path.parent.resolve() == output.path.resolve() for shard in shards):
        raise UsageError(f"-o {output.path} is the folder of the run itself", "give another folder")
    cuts = [part * len(shards) // parts for part in range(parts + 1)]
    paths = [place_of(output, whole.kind, part, parts) for part in range(parts)]
    beside_alone(paths[0])
    return [_Joined(paths[part], part, parts, shards[cuts[part]:cuts[part + 1]]) for part in range(parts)]


def _write(joined: _Joined, whole: Run, entry: dict[str, Any], index: str | None, output: Output) -> Summary:
    folder = Path(os.path.abspath(joined.path.parent))
    make_folder(folder)
    ids = [item_id for shard in joined.shards for item_id in shard.ids]
    errors = {item_id: told for shard in joined.shards for item_id, told in shard.errors.items()}
    has_items = bool(KINDS[whole.kind].item)
    items = [item for shard in joined.shards for item in shard.items()] if has_items else [
        Item(item_id, error=errors[item_id]) for item_id in ids if item_id in errors]
    digest = write_shard(joined.path, Contents(
        whole.kind, whole.classes, items, part=joined.part, parts=joined.parts, ids=ids,
        provenance=[*joined_history(joined.shards), entry], **_index_of(joined.shards, index, folder),
        root_attrs=_root_attrs(whole, joined.shards, folder), root_datasets=_rows(joined.shards)))
    for shard in joined.shards:
        shard.close()
    write_log(output, {"path": joined.path.name, "digest": digest, "items": len(ids), "errors": len(errors)})
    return Summary(made=1, items=len(ids), errors=len(errors))


def _rows(shards: Sequence[Shard]) -> dict[str, np.ndarray]:
    """Return the root datasets of a kind without items, one part's rows below the other's."""
    return {array.name: np.concatenate([shard.root(array.name) for shard in shards])
            for array in KINDS[shards[0].kind].root}


def _root_attrs(whole: Run, shards: Sequence[Shard], folder: Path) -> dict[str, Any]:
    if whole.kind == "index":
        return {"root": os.path.relpath(root_of(whole), folder)}
    attributes = {}
    for name in KINDS[whole.kind].root_attrs:
        found = {shard.attribute(name): shard.path for shard in shards}
        if len(found) > 1:
            (first, path), (second, other), *_ = found.items()
            raise BadData(f"its {name} is {second}, that of {path} {first}", "give parts of one run", where=str(other))
        attributes[name] = next(iter(found))
    return attributes


def _index_of(shards: Sequence[Shard], given: str | None, folder: Path) -> dict[str, str]:
    """Return digest and path of the index behind the shards; of several the one given that was merged of them."""
    if shards[0].kind == "index":
        return {}
    digests = sorted({shard.index_digest for shard in shards})
    path = find_index(shards[0], given) if len(digests) == 1 else _merged_index(digests, given)
    return {"index_digest": Shard(path, "index").digest, "index_path": os.path.relpath(os.path.abspath(path), folder)}


def _merged_index(digests: list[str], given: str | None) -> Path:
    if not given:
        raise UsageError(f"the shards to be joined come from {len(digests)} indexes",
                         "join these first (wsss merge INDEX -o index.h5), and give --index index.h5")
    index = Shard(given, "index")
    if index.provenance[-1].get("inputs", {}).get("index") != joined_digest(digests):
        raise BadData("was not merged from the indexes of these shards", "merge those, and no others", where=given)
    return index.path
