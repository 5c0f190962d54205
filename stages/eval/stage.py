"""`eval`: score CAMs and masks against the ground truth of their index, and compare runs on the same images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.errors import UsageError
from stages.eval.comparison import add_conclusions, build_comparison
from stages.eval.config import EvalConfig
from stages.eval.confusion_tables import draw_confusion, encode_confusion
from stages.eval.details import build_run_scores, list_worst_images, resample_group
from stages.eval.image_tables import check_table_suffix, encode_image_table
from stages.eval.protocol import describe_protocol
from stages.eval.score import summarise_iou, summarise_precision
from stages.eval.workers import (
    SWEEPS,
    DetailedScorer,
    ImageCounter,
    ImageTotals,
    RunCounter,
    Scorer,
    needs_background,
)
from stages.flow.counting import Counting, PartsMissing, divide_counting
from stages.flow.device import reuse_freed_memory
from stages.flow.execution import Inputs, Output, Report, Stop
from stages.flow.ground_truth import Truth, open_truth
from stages.flow.mask_findings import report_contradictions
from stages.flow.picture_output import write_pictures
from stages.flow.run_groups import RunGroup, check_comparable, group_runs, select_common_ids
from stages.kernels.background import Background
from stages.kernels.boundary_iou import BOUNDARY_SHARE
from stages.settings import to_json_dict
from stages.shards import Run, combine_digests
from stages.shards.disk import make_folder, replace_file

_TRAINED_ON_ALL = "The network was trained on these images, so the mIoU says nothing about new images."


def evaluate(config: EvalConfig, inputs: Inputs, output: Output | None = None, *, stop: Stop,
             report: Report) -> dict[str, Any] | None:
    """Return the result that `wsss eval --json` prints: of one run, or of runs that are compared.

    None for a task of several that is done before the others: the last one returns the result.

    Raises UsageError, MissingInput (a missing part of the run, no ground truth), BadData. Memory: the stored CAMs and
    the masks of one image at a time, counts of the size of classes x thresholds, and, for runs that are compared, the
    counts of every image and each of its classes.
    """
    reuse_freed_memory()
    for name in ("per_image", "confusion"):
        if inputs.named.get(name):
            check_table_suffix(Path(str(inputs.named[name])), name)
    if config.boundary_width != BOUNDARY_SHARE and not config.boundary:
        raise UsageError("--boundary-width has no effect without --boundary", "Add --boundary, or leave it out")
    groups = group_runs(inputs.paths)
    counting = _divide_counting(config, groups, inputs, output, stop, report)
    try:
        if len(groups) > 1 or len(groups[0].runs) > 1:
            result = _compare(config, groups, inputs, counting)
        else:
            result = _evaluate(config, groups, inputs, counting)
    except PartsMissing as missing:
        report.info(str(missing))
        return None
    counting.remove_parts()
    return result


def _divide_counting(config: EvalConfig, groups: list[RunGroup], inputs: Inputs, output: Output | None, stop: Stop,
                     report: Report) -> Counting:
    """Return how the images are divided over processes and tasks. Raises UsageError for tasks without a file."""
    if output is None:
        return Counting(stop, report)
    request = {"config": to_json_dict(config), "runs": [[run.digest for run in group.runs] for group in groups],
               "truth": [inputs.named.get("truth"), inputs.index]}
    return divide_counting(output, request, stop, report, has_output=not output.is_left_out)


def _evaluate(config: EvalConfig, groups: list[RunGroup], inputs: Inputs, counting: Counting) -> dict[str, Any]:
    """Return the result of one run."""
    run, report = groups[0].runs[0], counting.report
    truth = _open_truth(run, inputs)
    result, scored_ids, scorer = _evaluate_run(config, run, truth, None, counting,
                                               count_images=_wants_details(config, inputs))
    report_contradictions(truth.indexes, report)
    truth.report_skipped_images(report)
    if scorer is not None:
        result |= build_run_scores(config, run.classes, [scorer], resample_group(config, run.classes, [scorer]))
        _write_tables(groups, [[scorer]], run.classes, scored_ids, inputs, report)
        if config.worst:
            result["worst"] = list_worst_images([[scorer]], scored_ids, config.worst)
    return result


def describe_plan(inputs: Inputs) -> str:
    """Return what `evaluate` would do, for a dry run. Raises UsageError, MissingInput, BadData."""
    groups = group_runs(inputs.paths)
    run = groups[0].runs[0]
    truth = _open_truth(run, inputs)
    ids = list(truth.iterate_ids())
    if len(groups) > 1 or len(groups[0].runs) > 1:
        check_comparable(groups)
        ids, _ = select_common_ids(groups, ids)
    num_with_truth = sum(map(truth.has_mask, ids))
    if not num_with_truth:
        raise truth.build_missing_error()
    if len(groups) > 1:
        names = ", ".join(group.name for group in groups)
        return f"compare {names} on {num_with_truth} images with ground truth"
    return f"score {run.kind} on {num_with_truth} images with ground truth"


def save_result(result: dict[str, Any], path: Path) -> None:
    """Write a result as JSON. Raises CannotCreate, IoFailed."""
    make_folder(path.absolute().parent)
    replace_file(path, (json.dumps(result, indent=1) + "\n").encode())


def save_text(text: str, path: Path) -> None:
    """Write the text of a table. Raises CannotCreate, IoFailed."""
    make_folder(path.absolute().parent)
    replace_file(path, f"{text}\n".encode())


def _wants_details(config: EvalConfig, inputs: Inputs) -> bool:
    return bool(config.worst or config.boundary or config.calibration
                or inputs.named.get("per_image") or inputs.named.get("confusion"))


def _open_truth(run: Run, inputs: Inputs) -> Truth:
    """Return the ground truth. Raises UsageError if both an index and a folder of masks are given."""
    folder = inputs.named.get("truth")
    if folder is not None and inputs.index:
        raise UsageError(f"--truth {folder} and --index {inputs.index} both give the ground truth", "Use one of them")
    return open_truth(run, folder, inputs.index, inputs.root)


def _list_training_images(run: Run) -> frozenset[str] | None:
    """Return the ids of the run that its network was trained on; None if the run does not tell."""
    marks = run.read_in_training()
    return None if marks is None else frozenset(
        item_id for item_id, mark in zip(run.ids, marks, strict=True) if mark)


def _evaluate_run(config: EvalConfig, run: Run, truth: Truth, ids: Sequence[str] | None, counting: Counting,
                  name: str = "", *, count_images: bool) -> tuple[dict[str, Any], list[str], DetailedScorer | None]:
    """Return (the result of a run on its images or on `ids`, the ids that were scored, the counts of every image).

    Messages begin with the `name` of the run if it is one of several. Without `count_images` there are no such counts.
    Raises PartsMissing if the counts of other tasks are not there.
    """
    report, prefix = counting.report, f"{_name_file(name)}-" if name else ""
    ids = list(truth.iterate_ids()) if ids is None else ids
    training_images = _list_training_images(run)
    counter = RunCounter(config, run, truth, ids, training_images, count_images)
    scorer = Scorer(run, config)  # raises UsageError for a background that does not apply
    counts = counting.count(f"{prefix}run", counter, len(ids))
    scorer.add_counts(counts)
    totals = ImageTotals(*counts["sum.totals"].tolist())
    scored_ids = [ids[position] for position in counts["all.scored"].tolist()]
    if not totals.with_truth:
        raise truth.build_missing_error()
    _report_caveats(run, totals, config, scorer, report, name, is_training_known=training_images is not None)
    result = _build_result(scorer, config, run, truth, totals)
    if not count_images:
        return result, scored_ids, None
    background = scorer.background
    if scorer.sweep is not None:
        # Images can be counted one by one only with the background score that the first pass has found.
        background = Background(result["background"]["rule"], (result["background"]["value"],))
        report.start_phase("images one by one")
        counts = counting.count(f"{prefix}images", ImageCounter(config, run, truth, scored_ids, background),
                                len(scored_ids), is_second_pass=True)
    detailed = DetailedScorer(run, config, background)
    detailed.add_counts(counts)
    _check_calibration(detailed)
    return result, scored_ids, detailed


def _name_file(name: str) -> str:
    """Return a name of a run as part of a file name: short, and different for different names."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def _check_calibration(scorer: DetailedScorer) -> None:
    if scorer.calibration is not None and not scorer.calibration.counts.any():
        raise UsageError(f"--calibration needs scores, but {scorer.run.first.path} has none",
                         "Give CAMs, or masks that `wsss pseudo` or `wsss segment` wrote")


def _compare(config: EvalConfig, groups: list[RunGroup], inputs: Inputs, counting: Counting) -> dict[str, Any]:
    """Return the result of several runs on the images that all of them contain."""
    check_comparable(groups)
    first, report = groups[0].runs[0], counting.report
    truth = _open_truth(first, inputs)
    common, num_others = select_common_ids(groups, truth.iterate_ids())
    ids = _select_scored_ids(config, groups, truth, common)
    if num_others:
        report.info(f"Compared {len(ids)} images and left out {num_others} that not all runs contain.")
    _check_background(config, groups)
    missing: PartsMissing | None = None
    results: list[list[dict[str, Any]]] = [[] for _ in groups]
    scorers: list[list[DetailedScorer]] = [[] for _ in groups]
    for index, group in enumerate(groups):
        for name, run in zip(group.run_names, group.runs, strict=True):
            run_config = config if needs_background(run) else replace(config, background="sweep")
            try:
                result, _, scorer = _evaluate_run(run_config, run, truth, ids, counting, name, count_images=True)
            except PartsMissing as error:
                missing = error  # a task counts its share of every run
                continue
            results[index].append(result)
            scorers[index] += [scorer] if scorer is not None else []
    if missing is not None:
        raise missing
    report_contradictions(truth.indexes, report)
    truth.report_skipped_images(report)
    comparison = {**build_comparison(config, first.classes, [(group.name, group.run_names) for group in groups],
                                     results, scorers), "images": len(ids), "left_out": num_others}
    _write_tables(groups, scorers, first.classes, ids, inputs, report)
    if config.worst:
        comparison["worst"] = list_worst_images(scorers, ids, config.worst)
    for sentence in add_conclusions(config, comparison):
        report.info(sentence)
    return comparison


def _select_scored_ids(config: EvalConfig, groups: list[RunGroup], truth: Truth, common: list[str]) -> list[str]:
    """Return the common ids with ground truth; with --skip-missing those that every run has a prediction of."""
    ids = [item_id for item_id in common if truth.has_mask(item_id)]
    if not ids:
        raise truth.build_missing_error()
    if config.skip_missing:
        ids = [item_id for item_id in ids if all(item_id in run for group in groups for run in group.runs)]
        if not ids:
            raise UsageError("no image has a prediction in every run", "Leave out --skip-missing")
    return ids


def _check_background(config: EvalConfig, groups: list[RunGroup]) -> None:
    runs = [run for group in groups for run in group.runs]
    if config.background not in SWEEPS and not any(map(needs_background, runs)):
        raise UsageError(f"--background {config.background} does not apply to {runs[0].first.path}, which already has "
                         "a background", "Remove --background")


def _write_tables(groups: list[RunGroup], scorers: list[list[DetailedScorer]], classes: tuple[str, ...],
                  ids: list[str], inputs: Inputs, report: Report) -> None:
    """Write --per-image and --confusion."""
    if path := inputs.named.get("per_image"):
        data = encode_image_table(Path(path), [group.name for group in groups], classes, scorers, ids)
        make_folder(Path(path).absolute().parent)
        replace_file(Path(path), data)
        report.info(f"Wrote the table of images {path}.")
    if path := inputs.named.get("confusion"):
        matrices = [(name, scorer.confusion) for group, seeds in zip(groups, scorers, strict=True)
                    for name, scorer in zip(group.run_names, seeds, strict=True)]
        if Path(path).suffix.lower() == ".csv":
            make_folder(Path(path).absolute().parent)
            replace_file(Path(path), encode_confusion(matrices, classes))
        else:
            write_pictures(Path(path), draw_confusion(matrices, classes))
        report.info(f"Wrote the confusion matrix {path}.")


def _report_caveats(run: Run, totals: ImageTotals, config: EvalConfig, scorer: Scorer, report: Report, name: str, *,
                    is_training_known: bool) -> None:
    """Report what a reader of the numbers must know: missing images, and numbers that are too good."""
    start = f"{name}: " if name else ""
    if totals.missing and config.skip_missing:
        report.info(f"{start}Skipped {totals.missing} of {totals.with_truth} images because they have no prediction.")
    elif totals.missing:
        report.info(f"{start}Counted {totals.missing} of {totals.with_truth} images as background because they have no "
                    "prediction. Use --skip-missing to skip such images.")
    if scorer.sweep:
        report.info(f"{start}The background score was chosen on the ground truth that is scored, so the mIoU is "
                    "optimistic.")
    if not is_training_known:
        if _was_trained_on_index(run):
            report.info(start + _TRAINED_ON_ALL)
    elif totals.trained_on == totals.with_truth:
        report.info(start + _TRAINED_ON_ALL)
    elif totals.trained_on:
        report.info(f"{start}The network was trained on {totals.trained_on} of the {totals.with_truth} images, so the "
                    "mIoU is optimistic about new images.")


def _was_trained_on_index(run: Run) -> bool:
    """Return whether a network of format 1.0, which does not list its images, was trained on the index of the run."""
    trained_on = {entry.get("inputs", {}).get("net_index") for entry in run.first.provenance}
    digests = sorted({shard.index_digest for shard in run.shards})
    return bool(trained_on & {*digests, combine_digests(digests)})


def _build_result(scorer: Scorer, config: EvalConfig, run: Run, truth: Truth, totals: ImageTotals) -> dict[str, Any]:
    if scorer.sweep:
        value, pixels = scorer.sweep.select_best(config.rule)
        background: dict[str, Any] | None = {"rule": scorer.sweep.rule, "value": value, "chosen_on": "ground-truth",
                                             **truth.describe()}
    else:
        pixels, background = scorer.confusion.count_pixels(), scorer.background_record
        if scorer.background:
            values = scorer.background.values
            background = {**background, "rule": scorer.background.rule,
                          "value": values[0] if len(values) == 1 else values}
    mean, iou_by_class = summarise_iou(pixels, run.classes, config.rule)
    num_pixels = int(pixels.truth.sum())
    coverage = 1.0 if scorer.sweep else scorer.confusion.num_decided / max(1, num_pixels)
    return {
        "miou": mean, "per_class": iou_by_class, **summarise_precision(pixels, run.classes),
        "images": totals.with_truth - (totals.missing if config.skip_missing else 0), "missing": totals.missing,
        "refused": truth.num_rejected, "coverage": round(coverage, 6),
        "rule": config.rule, "background": background,
        "protocol": describe_protocol(config, run.classes, run.first.provenance),
    }
