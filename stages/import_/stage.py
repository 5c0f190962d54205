"""`import`: turns masks, CAMs and regions that other tools made into runs of an index."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.data.archive_files import check_not_archive
from stages.data.folders import require_folder
from stages.data.image_source import open_image_sources
from stages.data.mask_colours import format_colour
from stages.data.mask_values import IGNORED, MaskValues, read_mask_values
from stages.data.name_pattern import ID_FIELD, NamePattern, parse_name_pattern
from stages.data.result_files import (
    FileMatches,
    combine_hashes,
    describe_unused_files,
    hash_files,
    list_result_files,
    match_files,
    read_result_file,
    require_matches,
)
from stages.errors import BadData, MissingInput, Stopped, UsageError
from stages.flow.background_share import PixelCountingReport
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import MapWork
from stages.flow.tag_comparison import TagComparingReport
from stages.import_.cam_classes import describe_keys, match_class_files
from stages.import_.cam_files import ARRAY_SUFFIXES, PICTURE_SUFFIXES
from stages.import_.coco_results import Results
from stages.import_.config import CamsConfig, CocoConfig, MasksConfig, RegionsConfig
from stages.import_.mask_files import MASK_SUFFIXES
from stages.import_.regions import REGION_SUFFIXES
from stages.import_.workers import load_results
from stages.settings import to_json_dict
from stages.shards import Run

_MAX_SAMPLED_IMAGES = 8
_MAX_LISTED_VALUES = 8


def run_masks(config: MasksConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the masks in a folder as a `masks` run, and warn if almost all their pixels are background or ignored.

    Raises UsageError, MissingInput, BadData (if the files can't be imported), CannotCreate, Stopped.
    """
    folder, index = _open_inputs(inputs, "masks")
    mask_values = read_mask_values(config.mask_values, index.classes)
    if mask_values:
        report.info(f"Values of the masks: {_describe_mask_values(mask_values, index.classes)}")
    files = list_result_files(folder)
    pattern = parse_name_pattern(config.pattern, MASK_SUFFIXES)
    matches = match_files(list(index.ids), files, MASK_SUFFIXES, pattern)
    _report_matches(matches.files, matches, files, index, folder, "{id}.png", pattern, "mask", report)
    shared, digest = _hash_matches(folder, {name: [file] for name, file in matches.files.items()}, matches.problems,
                                   "{id}.png", pattern, stop, report)
    work = MapWork("import", "masks", "masks", ("index",), "stages.import_.workers:MasksWorker", config,
                   {**to_json_dict(config), "mask_values": mask_values.text}, digests={"folder": digest},
                   root=inputs.root, shard_size=config.shard_size, needs_torch=False, shared=shared)
    comparing = TagComparingReport(report, inputs.index)
    counting = PixelCountingReport(comparing, inputs.index)
    summary = _run(work, index, inputs, output, stop, counting)
    _report_other_classes(comparing, "--mask-values", report)
    warning = "" if output.dry_run else counting.counts.build_warning(
        "check the values of the masks, and say what they mean with --mask-values",
        "check the values of the masks, and say what they mean with --mask-values")
    if warning:
        report.info(warning)
    return summary


def run_cams(config: CamsConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the CAMs in a folder as a `cams` run. Raises what run_masks raises."""
    if config.background == "included" and config.normalise != "none":
        raise UsageError("--normalise maximum would change how the classes compete with --background included",
                         "Leave out one of them")
    folder, index = _open_inputs(inputs, "CAMs")
    files = list_result_files(folder)
    pattern = parse_name_pattern(config.pattern, (*ARRAY_SUFFIXES, *PICTURE_SUFFIXES))
    files_by_id, keys, matches, expected = _match_cams(files, index, folder, pattern)
    _report_matches(files_by_id, matches, files, index, folder, expected, pattern, "file of CAMs", report)
    has_background = config.background == "included"
    report.info(f"Numbers of classes: {describe_keys(index.classes, config.ids_from, has_background=has_background)}")
    shared, digest = _hash_matches(folder, files_by_id, matches.problems, expected, pattern, stop, report)
    work = MapWork("import", "cams", "cams", ("index",), "stages.import_.workers:CamsWorker", config,
                   to_json_dict(config), digests={"folder": digest}, root=inputs.root, shard_size=config.shard_size,
                   needs_torch=False, shared={**shared, "keys": keys})
    comparing = TagComparingReport(report, inputs.index)
    summary = _run(work, index, inputs, output, stop, comparing)
    if comparing.num_without_some:
        report.info(f"{comparing.num_without_some} of {comparing.num_compared} images have no map of one of their "
                    f"tags: {comparing.missing_example}.")
    return summary


def run_coco(config: CocoConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Draw instances in COCO's results format as a `masks` run; an image without instances is background.

    Raises UsageError, MissingInput, BadData (for an unknown category, and if no result is of an image of the index).
    """
    path, index = _open_results(inputs)
    annotations = inputs.require("annotations")
    annotations_path = None if annotations == "none" else Path(annotations)
    report.start_phase("reading results")
    sha256 = hashlib.sha256(read_result_file(path, str(path))).hexdigest()
    digests = {"results": sha256}
    if annotations_path is not None:
        digests["annotations"] = hashlib.sha256(read_result_file(annotations_path, str(annotations_path))).hexdigest()
    arguments = (str(path.parent), path.name, sha256, annotations_path and str(annotations_path), config.min_score,
                 tuple(index.ids), index.classes)
    _report_results(load_results(*arguments), config, index, path, report)
    work = MapWork("import", "coco", "masks", ("index",), "stages.import_.workers:CocoWorker", config,
                   to_json_dict(config), digests=digests, root=inputs.root, shard_size=config.shard_size,
                   needs_torch=False, shared={"results": arguments, "files": dict.fromkeys(index.ids)})
    comparing = TagComparingReport(report, inputs.index)
    summary = _run(work, index, inputs, output, stop, comparing)
    _report_other_classes(comparing, "the file of --annotations", report)
    return summary


def run_regions(config: RegionsConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the regions in a folder as a `regions` run. Raises what run_masks raises."""
    folder, index = _open_inputs(inputs, "regions")
    files = list_result_files(folder)
    pattern = parse_name_pattern(config.pattern, REGION_SUFFIXES)
    matches = match_files(list(index.ids), files, REGION_SUFFIXES, pattern)
    _report_matches(matches.files, matches, files, index, folder, "{id}.png", pattern, "file of regions", report)
    shared, digest = _hash_matches(folder, {name: [file] for name, file in matches.files.items()}, matches.problems,
                                   "{id}.png", pattern, stop, report)
    work = MapWork("import", "regions", "regions", ("index",), "stages.import_.workers:RegionsWorker", config,
                   to_json_dict(config), digests={"folder": digest}, root=inputs.root, shard_size=config.shard_size,
                   needs_torch=False, shared=shared)
    return _run(work, index, inputs, output, stop, report)


def _open_results(inputs: Inputs) -> tuple[Path, Run]:
    """Return the path of the file of results, and the index. Raises UsageError, MissingInput, BadData."""
    paths = [Path(path) for path in inputs.paths]
    if len(paths) != 1:
        raise UsageError(f"{'no file was' if not paths else f'{len(paths)} files were'} given", "Give one file of "
                         "results")
    if not paths[0].is_file():
        raise MissingInput("there is no such file", "Give a file of results in COCO's format", where=str(paths[0]))
    check_not_archive(paths[0])
    return paths[0], Run([inputs.require("index")], "index")


def _report_results(results: Results, config: CocoConfig, index: Run, path: Path, report: Report) -> None:
    """Report what was found in the results. Raises BadData if none is of an image of the index."""
    num_images = sum(1 for _ in index.ids)
    num_drawn = sum(map(len, results.entries.values()))
    if results.unknown_images and not num_drawn and not results.num_below_score:
        raise BadData(f"none of the results is of an image of the index (the first image_id is "
                      f"{results.unknown_images[0]!r}, the first id of the index {next(index.ids)!r})",
                      "Give the file with the names of the images as --annotations", where=str(path))
    report.info(f"Drawing {num_drawn} of {results.num_instances} instances on {len(results.entries)} of {num_images} "
                f"images. Left out with a score below {config.min_score:g}: {results.num_below_score}.")
    num_empty = num_images - len(results.entries)
    if num_empty:
        example = next(item_id for item_id in index.ids if item_id not in results.entries)
        report.info(f"{num_empty} images have no instance and become background, for example {example}.")
    if results.unknown_images:
        report.info(f"Skipped the instances of {len(results.unknown_images)} images that are not in the index, for "
                    f"example {results.unknown_images[0]!r}.")


def _match_cams(files: Sequence[str], index: Run, folder: Path, pattern: NamePattern) -> tuple[
        dict[str, list[str]], dict[str, str] | None, FileMatches, str]:
    """Return the files of each image, the classes of the files if each has one, and what did not match.

    Raises BadData if the folder has both arrays and a picture per class.
    """
    ids = list(index.ids)
    matches = match_files(ids, files, ARRAY_SUFFIXES, pattern)
    pictures, picture_matches = match_class_files(ids, files, index.classes, PICTURE_SUFFIXES, pattern)
    if (matches.files or matches.problems) and pictures:
        first_array, first_picture = (next(iter(group), "") for group in (
            matches.files.values(), (file for by_key in pictures.values() for file in by_key.values())))
        raise BadData(f"holds arrays ({first_array}) and pictures of classes ({first_picture})",
                      "Move one kind to another folder", where=str(folder))
    if not pictures:
        return {name: [file] for name, file in matches.files.items()}, None, matches, "{id}.npy"
    keys = {file: key for by_key in pictures.values() for key, file in by_key.items()}
    return ({name: sorted(by_key.values()) for name, by_key in pictures.items()}, keys, picture_matches,
            "{id}_CLASS.png")


def _describe_mask_values(mask_values: MaskValues, classes: Sequence[str]) -> str:
    """Return what each value or colour means, with the names of the classes."""
    names = {**dict(enumerate(classes)), 0: classes[0] or "no class"}
    meanings = {**{str(value): class_id for value, class_id in mask_values.ids.items()},
                **{format_colour(colour): class_id for colour, class_id in mask_values.colours.items()}}
    pairs = [f"{value} = {'ignored' if class_id == IGNORED else names[class_id]}"
             for value, class_id in meanings.items()]
    return f"{', '.join(pairs[:_MAX_LISTED_VALUES])}{', ...' if len(pairs) > _MAX_LISTED_VALUES else ''}"


def _report_other_classes(comparing: TagComparingReport, remedy: str, report: Report) -> None:
    """Report masks with classes that are not among the tags of their image: errors of a network, or another order."""
    if comparing.num_with_others:
        report.info(f"{comparing.num_with_others} of {comparing.num_compared} masks have classes that are not among "
                    f"the tags: {comparing.example}. If the masks are right, check the order of the classes with "
                    f"{remedy}.")


def _open_inputs(inputs: Inputs, noun: str) -> tuple[Path, Run]:
    """Return the folder of the results and the index. Raises UsageError, MissingInput, BadData."""
    paths = list(inputs.paths)
    if len(paths) != 1:
        raise UsageError(f"{'no folder was' if not paths else f'{len(paths)} folders were'} given",
                         f"Give the folder of the {noun}")
    return require_folder(Path(paths[0]), f"Give the folder of the {noun}"), Run([inputs.require("index")], "index")


def _report_matches(files_by_id: Mapping[str, object], matches: FileMatches, files: Sequence[str], index: Run,
                    folder: Path, expected: str, pattern: NamePattern, noun: str, report: Report) -> None:
    """Report what was found in the folder. Raises MissingInput if no image has a file."""
    ids = list(index.ids)
    first = pattern.build_file_name(expected.replace(ID_FIELD, ids[0] if ids else "ID"))
    require_matches({**files_by_id, **matches.problems}, ids, files, folder, first)
    missing = [item_id for item_id in ids if item_id not in files_by_id and item_id not in matches.problems]
    without = f"; {len(missing)} have none, for example {missing[0]}" if missing else ""
    report.info(f"{len(files_by_id)} of {len(ids)} images of the index have a {noun} in {folder}{without}.")
    if matches.renamed:
        report.info(f"Matched {len(matches.renamed)} file names that differ from the image id in letter case or in "
                    f"the form of Unicode, for example {matches.renamed[0]}.")
    if matches.unused:
        report.info(describe_unused_files(matches.unused))


def _hash_matches(folder: Path, files_by_id: Mapping[str, list[str]], problems: Mapping[str, str], expected: str,
                  pattern: NamePattern, stop: Stop, report: Report) -> tuple[dict[str, Any], str]:
    """Return what the workers need to know of the files, and the digest of all their names and contents."""
    files = sorted({file for paths in files_by_id.values() for file in paths})
    report.start_progress("reading files", len(files), unit="files")

    def advance() -> None:
        report.advance()
        if stop.requested:
            raise Stopped("stopped by a signal", "Run the same command again")

    hashes = hash_files(folder, files, advance)
    shared = {"folder": str(folder), "files": dict(files_by_id), "hashes": hashes, "problems": dict(problems),
              "expected": expected, "pattern": pattern}
    return shared, combine_hashes(hashes)


def _run(work: MapWork, index: Run, inputs: Inputs, output: Output, stop: Stop, report: Report) -> Summary:
    """Import all images, after a few of them if these do not all fail."""
    if output.allow_errors == "0":
        report.start_phase("checking files")
        _check_sample(work, index, inputs.root)
    paths = [str(shard.path) for shard in index.shards]
    return run_map_stage(work, replace(inputs, paths=paths, index=None), output, stop=stop, report=report)


def _check_sample(work: MapWork, index: Run, root: str | None) -> None:
    """Raise BadData if none of a few images, spread over the index, can be imported: the rest will not do better."""
    worker: Any = work.build_worker()
    sources = [(source, item_id) for source in open_image_sources(index, root) for item_id in source.index.ids
               if item_id in work.shared["files"] and item_id not in source.index.errors]
    sample, first_error = sources[::max(1, len(sources) // _MAX_SAMPLED_IMAGES)][:_MAX_SAMPLED_IMAGES], None
    for source, item_id in sample:
        try:
            worker.read_item(source, item_id)
            return
        except BadData as error:
            first_error = first_error or error
    if first_error is not None:
        count = f"none of {len(sample)} images that were tried can be imported; the first: " if len(sample) > 1 else ""
        raise BadData(f"{count}{first_error.message}", first_error.remedy, where=first_error.where)
