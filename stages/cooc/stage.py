"""`cooc`: count how often classes appear together, over the tags of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from stages.cooc.config import CoocConfig
from stages.cooc.matrix import compute_probability
from stages.cooc.workers import TagCounter
from stages.errors import BadData
from stages.flow.cooc_plot import draw_cooc
from stages.flow.counting import Counting, Counts, PartsMissing, divide_counting
from stages.flow.execution import Inputs, Output, Report, Stop, Summary, check_picture_path
from stages.flow.single_shard import (
    check_single_file,
    mark_inherited_failures,
    reuse_existing_shard,
    write_single_shard,
)
from stages.settings import to_json_dict
from stages.shards import Run, Shard, ShardContents, provenance_entry


def run(config: CoocConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write counts and probabilities of all pairs of classes. Raises UsageError, MissingInput, BadData, CannotCreate.

    Memory: the labels of all images.
    """
    check_single_file(output)
    plot = inputs.named.get("plot")
    if plot:
        check_picture_path(plot, "--plot")
    report.start_phase("reading the index")
    index = Run(inputs.paths, "index")
    entry = provenance_entry("cooc", "", to_json_dict(config), {"index": index.digest})
    summary = reuse_existing_shard(output.path, entry, output)
    if output.dry_run:
        report.info(f"{output.path} is up to date." if summary else f"Would write {output.path}.")
        return summary or Summary()
    if summary is None:
        counting = divide_counting(output, entry, stop, report)
        try:
            summary = _write_counts(config, index, entry, output, counting)
        except PartsMissing as missing:
            report.info(str(missing))
            return Summary()
        counting.remove_parts()
    if plot:
        from stages.flow.picture_output import report_escapes, write_pictures  # imports Pillow, which few runs need
        report_escapes(index.classes[1:], report)
        write_pictures(Path(plot), [draw_cooc(Shard(output.path, "cooc"))])
        report.info(f"Wrote the plot {plot}.")
    return mark_inherited_failures(summary, index.shards)


def summarise_shard(path: Path) -> dict[str, Any]:
    """Return what `wsss cooc --json` prints for a shard: counts, probability and single_label by class name."""
    shard = Shard(path, "cooc")
    names = shard.classes[1:]

    def map_by_name(rows: np.ndarray) -> dict[str, Any]:
        return dict(zip(names, rows.tolist(), strict=True))

    tables = {name: {row: dict(zip(names, values, strict=True))
                     for row, values in map_by_name(shard.read_root(name)).items()}
              for name in ("counts", "probability")}
    return {"diagonal": shard.provenance[-1]["config"]["diagonal"], "images": len(shard.ids),
            "refused": len(shard.errors), "single_label": map_by_name(shard.read_root("single_label")), **tables}


def _write_counts(config: CoocConfig, index: Run, entry: dict[str, Any], output: Output, counting: Counting) -> Summary:
    """Count the tags and write the shard. Raises PartsMissing if the counts of other tasks are not there, BadData."""
    _check_index(index)
    num_images = sum(len(shard.ids) for shard in index.shards)
    totals = counting.count("tags", TagCounter(index, config.diagonal), num_images)
    rejected = {item_id: reason for shard in index.shards for item_id, reason in shard.errors.items()}
    _check_totals(totals, len(rejected), str(index.first.path))
    _report_tags(index, totals, len(rejected), counting.report)
    counts, single = totals["sum.counts"], totals["sum.single"]
    contents = ShardContents(
        "cooc", index.classes, ids=list(index.ids), provenance=[*index.first.provenance, entry],
        image_records=index.read_image_records(),
        root_datasets={"counts": counts, "probability": compute_probability(counts), "single_label": single})
    return write_single_shard(output, contents, (index.first.digest, index.first.path), rejected.items())


def _check_index(index: Run) -> None:
    """Raise BadData for an index without classes or without images."""
    where = str(index.first.path)
    if len(index.classes) < 2:
        raise BadData("the index has no classes", "Run `wsss index` again with tags or with --class-names",
                      where=where)
    if not any(shard.ids for shard in index.shards):
        raise BadData("the index has no images", "Run `wsss index` again with at least one image", where=where)


def _check_totals(totals: Counts, num_rejected: int, where: str) -> None:
    """Raise BadData if no image has a class."""
    if totals["sum.images_of_class"].any():
        return
    num_known, num_unknown = int(totals["sum.num_labels"].sum()), int(totals["sum.num_unknown"])
    problem = "no image has a class" if num_known else "the labels of all images are unknown"
    raise BadData(f"{problem} (images without a class: {num_known}, with unknown labels: {num_unknown}, "
                  f"rejected: {num_rejected})", "Run `wsss index` again with tags", where=where)


def _report_tags(index: Run, totals: Counts, num_rejected: int, report: Report) -> None:
    """Report how many images were counted and skipped, and warn of classes that are never alone or nowhere."""
    num_images, single = sum(len(shard.ids) for shard in index.shards), totals["sum.single"]
    num_none, num_single, num_multi = totals["sum.num_labels"].tolist()
    num_unknown = int(totals["sum.num_unknown"])
    report.info(f"Counted {num_none + num_single + num_multi} of {num_images} images: {num_single} with one class, "
                f"{num_multi} with several, {num_none} with none.")
    if num_unknown:
        report.info(f"Skipped {num_unknown} of {num_images} images because their labels are unknown.")
    if num_rejected:
        report.info(f"Skipped {num_rejected} of {num_images} images because the index rejected them. List them "
                    f"with `wsss info {index.first.path}`.")
    if len(single) == 1:
        report.info("The index has only one class, so no classes appear together.")
    elif not num_multi:
        report.info("No image has more than one class, so no classes appear together.")
    is_present = totals["sum.images_of_class"] > 0
    for selected, problem in ((~is_present, "in no image"), (is_present & (single == 0), "in no single-label image")):
        names = [index.classes[position + 1] for position in np.flatnonzero(selected)]
        if names:
            report.info(f"{len(names)} of {len(single)} classes are {problem}: {', '.join(names)}.")
