"""Which runs the arguments of `eval` name: parts that belong together, runs to compare, and groups of seeds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stages.errors import BadData, UsageError
from stages.shards import (
    Run,
    Shard,
    check_same_classes,
    describe_image_difference,
    describe_provenance_differences,
    find_shard_files,
    is_identified,
    parse_shard_name,
)

KINDS = ("cams", "masks")
_SHOWN_RUNS = 3


@dataclass(frozen=True)
class RunGroup:
    """A column of a comparison: its name, and the runs of one method with their names (several: its seeds)."""

    name: str
    runs: tuple[Run, ...]
    run_names: tuple[str, ...]


def group_runs(arguments: Iterable[str]) -> list[RunGroup]:
    """Return the groups that the arguments name, in their order.

    NAME=RUN is a run with a name, NAME=RUN,RUN,... a group of seeds. Of the other arguments, shards that are parts of
    one run are one run, wherever they are. Raises MissingInput, BadData, and UsageError for a name that is used twice.
    """
    parts: list[list[str] | RunGroup] = []
    for argument in arguments:
        if "=" in argument and not Path(argument).exists():
            parts.append(_open_named_group(argument))
            continue
        if Path(argument).is_dir():
            Run([argument], KINDS, require_all=False)  # a folder holds one run, or is told what differs in it
        for path in find_shard_files(argument):
            _add_shard(parts, str(path))
    if not parts:
        raise UsageError("RUN is missing", "See `wsss eval --help`")
    groups = [part if isinstance(part, RunGroup) else _open_group(part) for part in parts]
    return _name_groups(groups)


def check_comparable(groups: list[RunGroup]) -> None:
    """Raise BadData if the runs have different classes, or an image differs between two of them."""
    (first_name, first), *others = [pair for group in groups
                                    for pair in zip(group.run_names, group.runs, strict=True)]
    check_same_classes((first_name, first.classes), *((name, run.classes) for name, run in others))
    records = first.read_image_records()
    if records is None:
        return
    record_by_id = dict(zip(first.ids, records, strict=True))
    for name, run in others:
        other_records = run.read_image_records()
        for item_id, record in zip(run.ids, () if other_records is None else other_records, strict=False):
            reference = record_by_id.get(item_id)
            if reference is None or not (is_identified(record) and is_identified(reference)):
                continue
            if difference := describe_image_difference(record, reference):
                raise BadData(f"was made from other images than {first_name}: {item_id} has {difference}",
                              "Compare runs of the same photographs", where=name)


def select_common_ids(groups: list[RunGroup], truth_ids: Iterable[str]) -> tuple[list[str], int]:
    """Return (the ids with ground truth that all runs contain, in the order of the ground truth, how many others).

    Others are the images of any run that not all of them contain. Raises BadData if no image is common.
    """
    runs = [run for group in groups for run in group.runs]
    id_sets = [set(run.shard_by_id) for run in runs]
    common = set.intersection(*id_sets)
    num_others = len(set.union(*id_sets) - common)
    if not common:
        names = [name for group in groups for name in group.run_names]
        starts = ", ".join(f"{name} begins with {next(iter(run.ids), 'no image')}"
                           for name, run in list(zip(names, runs, strict=True))[:_SHOWN_RUNS])
        raise BadData(f"the runs have no image in common ({starts})", "Compare runs of the same images")
    return [item_id for item_id in truth_ids if item_id in common], num_others


def _add_shard(parts: list[list[str] | RunGroup], path: str) -> None:
    """Add a shard to the unfinished run that it is a part of, else start another run with it."""
    shard = Shard(path, KINDS)
    given = [other for part in parts if isinstance(part, list) for other in part]
    if any(Path(other).resolve() == Path(path).resolve() for other in given):
        raise BadData(f"part {shard.part} appears twice", "Give each shard once", where=path)
    candidates = [part for part in parts if isinstance(part, list) and _is_missing(part, shard)]
    same_folder = [part for part in candidates if Path(part[0]).parent == Path(path).parent]
    if same_folder or candidates:
        (same_folder or candidates)[0].append(path)
    else:
        parts.append([path])
    shard.close()


def _is_missing(paths: list[str], shard: Shard) -> bool:
    """Return whether a shard is a part that the run of these shards lacks."""
    first = Shard(paths[0], KINDS)
    same = (first.kind, first.classes, first.parts) == (shard.kind, shard.classes, shard.parts)
    is_missing = (same and len(paths) < first.parts and shard.part not in {Shard(path).part for path in paths}
                  and not describe_provenance_differences(first.provenance, shard.provenance))
    first.close()
    return is_missing


def _open_named_group(argument: str) -> RunGroup:
    name, _, paths = argument.partition("=")
    if not name.strip() or not all(path.strip() for path in paths.split(",")):
        raise UsageError(f"{argument} is neither an existing path nor NAME=RUN or NAME=RUN,RUN,...",
                         "Give for example CAM=cams-seed0,cams-seed1")
    runs = tuple(Run([path], KINDS) for path in paths.split(","))
    if len({run.digest for run in runs}) < len(runs):
        raise UsageError(f"{argument} has the same run twice", "Give each seed once")
    return RunGroup(name.strip(), runs, tuple(paths.split(",")))


def _open_group(paths: list[str]) -> RunGroup:
    run = Run(paths, KINDS)
    path = Path(paths[0])
    # A folder may be given as . or .., which are no names.
    folder = path.parent.resolve() if path.parent.name in ("", "..") else path.parent
    name = str(folder if parse_shard_name(path) else path.with_suffix(""))
    return RunGroup(name, (run,), (name,))


def _name_groups(groups: list[RunGroup]) -> list[RunGroup]:
    """Return the groups with the last part of their paths as names, where these differ. Raises UsageError."""
    short_names = [Path(group.name).name for group in groups]
    groups = [RunGroup(short if short_names.count(short) == 1 else group.name, group.runs, group.run_names)
              for group, short in zip(groups, short_names, strict=True)]
    names = [group.name for group in groups]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{twice} is given twice", "Give runs that differ their own names, as in NAME=RUN")
    return groups
