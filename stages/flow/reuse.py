"""Takes over items of another run (`--reuse`) if their image, tags and settings are unchanged.

An item is a function of its image, the tags of the image, the classes, the settings and the networks of all stages
that led to it. If these are the same in both runs, so is the item. Only a batch of several images can change its last
bits, and so can another version of wsss; then the provenance records the run, see `record_reuse`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from stages import VERSION
from stages.errors import BadData, UsageError, WsssError
from stages.flow.execution import Output
from stages.flow.index_lookup import find_index
from stages.flow.map_work import MapWork, PartWork
from stages.flow.parts import Part
from stages.flow.stored_items import read_items
from stages.shards import (
    KINDS,
    Item,
    ItemStore,
    Run,
    Shard,
    applies_exif,
    check_same_classes,
    describe_differences,
    find_shard_files,
    is_identified,
    select_image_records,
)
from stages.shards.request import TOOL

REUSED_INPUT = "reused"
_SHARD_INPUTS = ("index", "features", "cams", "masks", REUSED_INPUT)
# Their classes are those of a network or of the command line, which the settings and networks tell.
_STAGES_WITH_OTHER_CLASSES = ("segment",)
_PARTITION_SETTINGS = ("shard_size",)

_RunKey = tuple[tuple[Path, int, int], ...]


@dataclass(frozen=True)
class _ReusableImage:
    """An image of the run that is reused: its shard, and its record."""

    shard: Shard
    record: np.ndarray


def record_reuse(work: MapWork, output: Output) -> MapWork:
    """Return the work with the reused run among its inputs, if that run can change the last bits of the output.

    It can if several images form a batch, since the other images of a batch differ, or if another version of wsss made
    the run. Otherwise the output has the bytes of a run without `--reuse`, so its provenance is the same, too. Raises
    MissingInput, BadData (another kind), UsageError.
    """
    if output.reuse is None:
        return work
    run = _open_run(output.reuse, work.kind)
    if work.companion is not None:
        raise UsageError("--reuse does not apply to a command that writes a second run",
                         "Leave out --reuse, or the option for the second run (--save-raw)")
    own = output.path.resolve()
    if any(own in (shard.path.resolve(), shard.path.resolve().parent) for shard in run.shards):
        raise UsageError(f"--reuse {output.reuse} is also the output", "Choose another --output")
    versions = {entry.get("version") for entry in run.first.provenance}
    if work.batch_size == 1 and versions == {VERSION}:
        return work
    return replace(work, digests={**work.digests, REUSED_INPUT: run.digest})


def check_reuse(work: MapWork, part: Part, output: Output) -> None:
    """Raise BadData unless the reused run was made with the settings and networks of this work, from wsss's own files.

    Parts of a run agree in this, so one part is enough.
    """
    if output.reuse is None:
        return
    run, source = _open_run(output.reuse, work.kind), Shard(part.source)
    provenance = [*source.provenance, work.build_provenance_entry(source)]
    changed = describe_differences(_summarise(run.first.provenance), _summarise(provenance))
    if changed:
        raise BadData(f"can't be reused, because it was made with different settings ({changed})",
                      "Use the same settings, or leave out --reuse", where=output.reuse)
    foreign = [entry for entry in source.provenance if entry.get("tool") != TOOL or entry.get("stage") == "import"]
    if foreign and source.kind != "index":
        raise BadData(f"can't be reused, because {part.source} comes from {foreign[0].get('tool')} "
                      f"{foreign[0].get('stage')}, and whether its items have changed is not recorded",
                      "Leave out --reuse", where=output.reuse)


def load_reusable_items(work: MapWork, part: Part, part_work: PartWork, source: Shard, index: Shard,
                        output: Output) -> ItemStore:
    """Return the items of the reused run that need not be computed again, by their position in the part.

    Failed images are not taken over, nor images without a checksum. Raises BadData if the run has other classes.
    """
    items = ItemStore()
    if output.reuse is None:
        return items
    run = _open_run(output.reuse, work.kind)
    check_same_classes((f"--reuse {output.reuse}", run.classes), (str(part.source), tuple(part_work.classes)))
    _check_root_attributes(run, part_work, output.reuse)
    for position, shard in _find_reusable_images(output.reuse, work.kind, part, source, index).items():
        items.add(position, _read_item(shard, source.ids[part.start + position]))
    return items


def count_reusable_items(work: MapWork, part: Part, output: Output) -> int:
    """Return the number of images of a part that `load_reusable_items` takes over, without loading them."""
    if output.reuse is None:
        return 0
    source, index = Shard(part.source), Shard(part.index_path, "index")
    if work.stage not in _STAGES_WITH_OTHER_CLASSES:
        check_same_classes((f"--reuse {output.reuse}", _open_run(output.reuse, work.kind).classes),
                           (str(part.source), tuple(source.classes)))
    return len(_find_reusable_images(output.reuse, work.kind, part, source, index))


def _find_reusable_images(path: str, kind: str, part: Part, source: Shard, index: Shard) -> dict[int, Shard]:
    """Return the shard that has the image, for each position in the part that need not be computed again."""
    images, shards = _list_images(path, kind), {}
    records = select_image_records(source, index, slice(part.start, part.stop))
    for position, (item_id, record) in enumerate(zip(part.ids(source), records, strict=True)):
        image = images.get(item_id)
        is_same = image is not None and is_identified(record) and np.array_equal(image.record, record)
        if is_same and item_id not in source.errors and item_id not in index.errors:
            shards[position] = image.shard
    return shards


def _check_root_attributes(run: Run, part_work: PartWork, reuse: str) -> None:
    for name, value in part_work.root_attrs.items():
        if run.first.attribute(name) != value:
            raise BadData(f"can't be reused, because its {name} is {run.first.attribute(name)}, not {value}",
                          "Leave out --reuse", where=reuse)


def _summarise(provenance: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what decides an item besides its image: methods, settings and networks, by stage.

    Of the index only whether it turns images, since it may list others. Merging changes no item.
    """
    stages: dict[str, Any] = {"index": {"apply_exif": applies_exif(provenance)}}
    for entry in provenance:
        name = str(entry.get("stage"))
        if name in ("index", "merge"):
            continue
        while name in stages:
            name += " again"
        stages[name] = {"method": entry.get("method"),
                        **_leave_out(entry.get("config"), _PARTITION_SETTINGS),
                        **_leave_out(entry.get("inputs"), _SHARD_INPUTS)}
    return stages


def _leave_out(values: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names} if isinstance(values, dict) else {}


def _open_run(path: str, kind: str) -> Run:
    """Open the reused run, once per process; parts that were never made are computed. Raises MissingInput, BadData."""
    return _open_shards(_build_key(path), kind)


def _list_images(path: str, kind: str) -> dict[str, _ReusableImage]:
    """Return the images of the reused run that did not fail, by id."""
    return _list_images_of_shards(_build_key(path), kind)


def _build_key(path: str) -> _RunKey:
    """Return what changes when a file of a run is replaced."""
    files = [(file, file.stat()) for file in find_shard_files(path)]
    return tuple((file, status.st_ino, status.st_mtime_ns) for file, status in files)


@lru_cache(maxsize=1)
def _open_shards(key: _RunKey, kind: str) -> Run:
    return Run([file for file, _, _ in key], kind, require_all=False)


@lru_cache(maxsize=1)
def _list_images_of_shards(key: _RunKey, kind: str) -> dict[str, _ReusableImage]:
    images: dict[str, _ReusableImage] = {}
    for shard in _open_shards(key, kind).shards:
        images |= {item_id: _ReusableImage(shard, record)
                   for item_id, record in zip(shard.ids, _read_records(shard), strict=True)
                   if item_id not in shard.errors}
    return images


def _read_records(shard: Shard) -> np.ndarray:
    """Return the records of a shard; for format 1.0, which has none, from its index. Raises BadData without it."""
    try:
        index = Shard(find_index(shard, None), "index") if not shard.images_digest else shard
    except WsssError as error:
        raise BadData("can't be reused, because it has format 1.0 without checksums of its images, and its index was "
                      f"not found ({error.message})", "Leave out --reuse", where=str(shard.path)) from None
    return select_image_records(shard, index, slice(None))


def _read_item(shard: Shard, item_id: str) -> Item:
    return shard.item(item_id) if KINDS[shard.kind].item else _read_rows(shard)[item_id]


@lru_cache(maxsize=2)
def _read_rows(shard: Shard) -> dict[str, Item]:
    return {item.id: item for item in read_items(shard)}
