"""`cooc`: count how often classes appear together, over the tags of an index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.cooc.config import CoocConfig
from stages.cooc.matrix import compute_probability, count_cooccurrences
from stages.errors import BadData, Stopped
from stages.flow.cooc_plot import draw_cooc
from stages.flow.execution import Inputs, Output, Report, Stop, Summary, check_picture_path
from stages.flow.single_shard import (
    check_single_file,
    mark_inherited_failures,
    reuse_existing_shard,
    write_single_shard,
)
from stages.settings import to_json_dict
from stages.shards import Run, Shard, ShardContents, provenance_entry


@dataclass(frozen=True)
class _Tags:
    """The concatenated known labels of all images, and how many labels each image has."""

    class_ids: np.ndarray
    labels_per_image: np.ndarray
    num_unknown: int
    rejected: dict[str, str]


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
        summary = _write_counts(config, index, entry, output, stop, report)
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


def _write_counts(config: CoocConfig, index: Run, entry: dict[str, Any], output: Output, stop: Stop,
                  report: Report) -> Summary:
    tags = _read_tags(index, stop, report)
    counts, single = count_cooccurrences(tags.class_ids, tags.labels_per_image, len(index.classes) - 1, config.diagonal)
    _report_tags(index, tags, single, report)
    contents = ShardContents(
        "cooc", index.classes, ids=list(index.ids), provenance=[*index.first.provenance, entry],
        image_records=index.read_image_records(),
        root_datasets={"counts": counts, "probability": compute_probability(counts), "single_label": single})
    return write_single_shard(output, contents, (index.first.digest, index.first.path), tags.rejected.items())


def _read_tags(index: Run, stop: Stop, report: Report) -> _Tags:
    """Return the labels of all images. Raises BadData if there are none, or if one is not a class."""
    where, num_classes = str(index.first.path), len(index.classes) - 1
    if not num_classes:
        raise BadData("the index has no classes", "Run `wsss index` again with tags or with --class-names",
                      where=where)
    if not any(shard.ids for shard in index.shards):
        raise BadData("the index has no images", "Run `wsss index` again with at least one image", where=where)
    report.start_progress("", sum(len(shard.ids) for shard in index.shards))
    rows, num_unknown = [], 0
    for shard in index.shards:
        for item_id, labels in shard.iterate_datasets("labels"):
            if stop.requested:
                raise Stopped("stopped before the end", "Run the same command again")
            report.advance()
            if labels is None:
                num_unknown += 1
            else:
                rows.append(_validate_class_ids(labels, num_classes, f"{shard.path}: item {item_id}"))
    class_ids = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    rejected = {item_id: reason for shard in index.shards for item_id, reason in shard.errors.items()}
    if not len(class_ids):
        problem = "no image has a class" if rows else "the labels of all images are unknown"
        raise BadData(f"{problem} (images without a class: {len(rows)}, with unknown labels: {num_unknown}, "
                      f"rejected: {len(rejected)})", "Run `wsss index` again with tags", where=where)
    return _Tags(class_ids, np.array([len(row) for row in rows]), num_unknown, rejected)


def _validate_class_ids(labels: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """Return the labels of an image without duplicates. Raises BadData for ids that are not a class."""
    ids = sorted(set(labels.tolist()))
    if ids and not 1 <= ids[0] <= ids[-1] <= num_classes:
        raise BadData(f"the labels {labels.tolist()} are not all class ids from 1 to {num_classes}",
                      "Run `wsss index` again", where=where)
    return labels if len(ids) == len(labels) else np.array(ids, dtype=labels.dtype)


def _report_tags(index: Run, tags: _Tags, single: np.ndarray, report: Report) -> None:
    """Report how many images were counted and skipped, and warn of classes that are never alone or nowhere."""
    num_images = sum(len(shard.ids) for shard in index.shards)
    num_single, num_multi = int((tags.labels_per_image == 1).sum()), int((tags.labels_per_image > 1).sum())
    num_known = len(tags.labels_per_image)
    report.info(f"Counted {num_known} of {num_images} images: {num_single} with one class, {num_multi} with several, "
                f"{num_known - num_single - num_multi} with none.")
    if tags.num_unknown:
        report.info(f"Skipped {tags.num_unknown} of {num_images} images because their labels are unknown.")
    if tags.rejected:
        report.info(f"Skipped {len(tags.rejected)} of {num_images} images because the index rejected them. List them "
                    f"with `wsss info {index.first.path}`.")
    if len(single) == 1:
        report.info("The index has only one class, so no classes appear together.")
    elif not num_multi:
        report.info("No image has more than one class, so no classes appear together.")
    is_present = np.bincount(tags.class_ids - 1, minlength=len(single)) > 0
    for selected, problem in ((~is_present, "in no image"), (is_present & (single == 0), "in no single-label image")):
        names = [index.classes[position + 1] for position in np.flatnonzero(selected)]
        if names:
            report.info(f"{len(names)} of {len(single)} classes are {problem}: {', '.join(names)}.")
