"""Compares runs on the same images: their scores, differences from the first, and what can be said about these."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.eval.config import EvalConfig
from stages.eval.details import (
    Resampled,
    Scores,
    average,
    average_by_class,
    build_run_scores,
    compute_group_image_miou,
    format_interval,
    list_named_classes,
    resample_group,
)

_FEWEST_IMAGES = 10  # with fewer, samples of the images say little about other images
Result = dict[str, Any]


def build_comparison(config: EvalConfig, classes: tuple[str, ...], groups: Sequence[tuple[str, Sequence[str]]],
                     results: Sequence[Sequence[Result]], scores: Scores) -> Result:
    """Return what `wsss eval A B --json` prints, apart from the numbers of images.

    `groups` are the names of columns and of their runs, `results` the result of every run, `scores` its counts.
    """
    sampled = [resample_group(config, classes, seeds) for seeds in scores]
    runs = [{"name": name, **_merge_results(names, seed_results), **build_run_scores(config, classes, seeds, samples)}
            for (name, names), seed_results, seeds, samples in zip(groups, results, scores, sampled, strict=True)]
    mious = [compute_group_image_miou(seeds) for seeds in scores]
    differences = [_compare_pair(config, classes, (runs[0], runs[index]), (sampled[0], sampled[index]),
                                 (mious[0], mious[index])) for index in range(1, len(runs))]
    return {"runs": runs, "differences": differences, "rule": config.rule, "draws": config.draws,
            "seed": config.seed, "interval_level": config.interval, "protocol": results[0][0]["protocol"]}


def add_conclusions(config: EvalConfig, comparison: Result) -> list[str]:
    """Add to each difference its `conclusion`, which says whether it can be told from chance; return all of them."""
    for difference in comparison["differences"]:
        difference["conclusion"] = _describe_difference(config, difference, comparison["images"])
    return [difference["conclusion"] for difference in comparison["differences"]]


def _merge_results(names: Sequence[str], results: Sequence[Result]) -> Result:
    """Return the result of a run, or of several seeds: the means, with the mIoU of each, its spread and range."""
    if len(results) == 1:
        return {key: value for key, value in results[0].items() if key not in ("rule", "protocol", "images")}
    mious = [result["miou"] for result in results]
    known = [miou for miou in mious if miou is not None]
    return {
        "miou": average(mious), **{key: average_by_class([result[key] for result in results])
                                   for key in ("per_class", "precision", "recall")},
        "seeds": [{"name": name, "miou": result["miou"], "background": result["background"]}
                  for name, result in zip(names, results, strict=True)],
        "standard_deviation": statistics.stdev(known) if len(known) > 1 else None,
        "range": [min(known), max(known)] if known else None,
        "missing": max(result["missing"] for result in results), "background": None,
    }


def _compare_pair(config: EvalConfig, classes: tuple[str, ...], runs: tuple[Result, Result],
                  sampled: tuple[Resampled, Resampled], image_mious: tuple[np.ndarray, np.ndarray]) -> Result:
    """Return the difference of the second run from the first."""
    reference, run = runs
    level, gains = config.interval, image_mious[1] - image_mious[0]
    gains = gains[~np.isnan(gains)]
    per_class = {}
    for column, (_, name) in enumerate(list_named_classes(classes)):
        interval = format_interval(sampled[1].iou[:, column] - sampled[0].iou[:, column], level)
        per_class[name] = {"difference": _subtract(run["per_class"][name], reference["per_class"][name]),
                           "interval": list(interval)}
    return {
        "run": run["name"], "reference": reference["name"], "difference": _subtract(run["miou"], reference["miou"]),
        "interval": list(format_interval(sampled[1].miou - sampled[0].miou, level)),
        "better": float(np.mean(gains > 0)) if gains.size else None,
        "worse": float(np.mean(gains < 0)) if gains.size else None,
        "ranges_overlap": _have_overlapping_ranges(reference, run), "per_class": per_class,
    }


def _subtract(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _have_overlapping_ranges(reference: Result, run: Result) -> bool | None:
    """Return whether a seed of the worse group is as good as one of the better; None unless a group has seeds."""
    if not (reference.get("range") or run.get("range")) or reference["miou"] is None or run["miou"] is None:
        return None
    low, high = (group.get("range") or [group["miou"]] * 2
                 for group in sorted((reference, run), key=lambda group: group["miou"]))
    return bool(low[1] >= high[0])


def _describe_difference(config: EvalConfig, difference: Result, num_images: int) -> str:
    """Return the sentence of a difference."""
    name, reference, (low, high) = difference["run"], difference["reference"], difference["interval"]
    if difference["difference"] is None or low is None:
        return f"{name} and {reference} can't be compared, because no pixel counts."
    points, level = f"{100 * difference['difference']:+.1f}", f"{100 * config.interval:g} %"
    numbers = (f"{points} mIoU, {level} interval {100 * low:.1f} to {100 * high:.1f} ({config.draws:,} draws, seed "
               f"{config.seed})")
    better, worse = (f"{100 * difference[key]:.0f} %" for key in ("better", "worse"))
    if num_images < _FEWEST_IMAGES:
        return (f"{num_images} images are too few to tell a difference between {name} and {reference}: {points} mIoU, "
                f"better on {better} of them and worse on {worse}.")
    if low <= 0 <= high:
        return (f"No difference between {name} and {reference} can be told from these {num_images} images: {numbers}; "
                f"{name} is better on {better} of them and worse on {worse}.")
    sentence = (f"{name} is better than {reference} on {better} of the {num_images} images and worse on {worse}: "
                f"{numbers}.")
    if difference["ranges_overlap"]:
        sentence += " But the ranges of their seeds overlap, so the difference may come from the seeds."
    return sentence
