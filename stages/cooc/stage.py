"""`cooc`: which classes appear together, counted over the tags of an index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.cooc.config import CoocConfig
from stages.cooc.matrix import counts_of, probability_of
from stages.errors import BadData, Stopped
from stages.flow.execution import Inputs, Output, Report, Stop, Summary, check_picture
from stages.flow.one_shard import check_one_file, shard_before, write_one_shard
from stages.settings import as_plain
from stages.shards import Contents, Run, Shard, provenance_entry
from stages.shards.disk import make_folder, replace_file


@dataclass(frozen=True)
class _Tags:
    """The known labels of all images one after the other, and how many of them each image has."""

    class_ids: np.ndarray
    per_image: np.ndarray
    unknown: int
    refused: dict[str, str]


def run(config: CoocConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write counts and probabilities of all pairs of classes. Raises UsageError, MissingInput, BadData, CannotCreate.

    Memory: the labels of all images.
    """
    check_one_file(output)
    plot = inputs.named.get("plot")
    if plot:
        check_picture(plot, "--plot")
    index = Run(inputs.paths, "index")
    entry = provenance_entry("cooc", "", as_plain(config), {"index": index.digest})
    summary = shard_before(output.path, entry, output)
    if output.dry_run:
        report.tell(f"{output.path} is up to date" if summary else f"would write {output.path}")
        return summary or Summary()
    if summary is None:
        summary = _counted(config, index, entry, output, stop, report)
    report.tell(f"{output.path} is up to date" if summary.up_to_date else f"wrote {output.path}")
    if plot:
        _draw(output.path, Path(plot), config.diagonal)
        report.tell(plot)
    return summary


def describe(path: Path) -> dict[str, Any]:
    """Return what `wsss cooc --json` prints of a shard: counts, probability and single_label, by class names."""
    shard = Shard(path, "cooc")
    names = shard.classes[1:]

    def by_name(rows: np.ndarray) -> dict[str, Any]:
        return dict(zip(names, rows.tolist(), strict=True))

    tables = {name: {row: dict(zip(names, values, strict=True)) for row, values in by_name(shard.root(name)).items()}
              for name in ("counts", "probability")}
    return {"diagonal": shard.provenance[-1]["config"]["diagonal"], "images": len(shard.ids),
            "refused": len(shard.errors), "single_label": by_name(shard.root("single_label")), **tables}


def _counted(config: CoocConfig, index: Run, entry: dict[str, Any], output: Output, stop: Stop,
             report: Report) -> Summary:
    tags = _tags(index, stop, report)
    counts, single = counts_of(tags.class_ids, tags.per_image, len(index.classes) - 1, config.diagonal)
    _tell(index, tags, single, report)
    contents = Contents(
        "cooc", index.classes, ids=list(index.ids), provenance=[*index.first.provenance, entry],
        root_datasets={"counts": counts, "probability": probability_of(counts), "single_label": single})
    return write_one_shard(output, contents, (index.first.digest, index.first.path), tags.refused.items())


def _tags(index: Run, stop: Stop, report: Report) -> _Tags:
    """Return the labels of all images. Raises BadData where there are none, or ids that are no class."""
    where, n_classes = str(index.first.path), len(index.classes) - 1
    if not n_classes:
        raise BadData("has no classes", "index it with tags, or with --class-names", where=where)
    if not any(shard.ids for shard in index.shards):
        raise BadData("holds no images", "index some", where=where)
    report.begin("images", sum(len(shard.ids) for shard in index.shards))
    rows, unknown = [], 0
    for shard in index.shards:
        for item_id, labels in shard.each("labels"):
            if stop.requested:
                raise Stopped("stopped", "run the same command again")
            report.advance()
            if labels is None:
                unknown += 1
            else:
                rows.append(_class_ids(labels, n_classes, f"{shard.path}: item {item_id}"))
    class_ids = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
    refused = {item_id: told for shard in index.shards for item_id, told in shard.errors.items()}
    if not len(class_ids):
        what = "no image bears a class" if rows else "the labels of all images are unknown"
        raise BadData(f"{what} ({len(rows)} known to have none, {unknown} unknown, {len(refused)} refused)",
                      "index it with tags", where=where)
    return _Tags(class_ids, np.array([len(row) for row in rows]), unknown, refused)


def _class_ids(labels: np.ndarray, n_classes: int, where: str) -> np.ndarray:
    """Return the labels of an image, sorted and each once. Raises BadData for ids that are no class."""
    ids = sorted(set(labels.tolist()))
    if ids and not 1 <= ids[0] <= ids[-1] <= n_classes:
        raise BadData(f"labels {labels.tolist()} are not class ids of 1 to {n_classes}", "index it again", where=where)
    return labels if len(ids) == len(labels) else np.array(ids, dtype=labels.dtype)


def _tell(index: Run, tags: _Tags, single: np.ndarray, report: Report) -> None:
    known, one, several = len(tags.per_image), int((tags.per_image == 1).sum()), int((tags.per_image > 1).sum())
    report.tell(f"{known} images with known labels: {one} bear one class, {several} more than one, "
                f"{known - one - several} none")
    if tags.unknown:
        report.tell(f"{tags.unknown} images have unknown labels and are left out")
    if tags.refused:
        report.tell(f"{len(tags.refused)} images were refused at index and are left out")
    if len(single) == 1:
        report.tell("there is one class only, so nothing can appear together")
    elif not several:
        report.tell("no image bears more than one class, so nothing appears together")
    borne = np.bincount(tags.class_ids - 1, minlength=len(single)) > 0
    for chosen, what in ((~borne, "in no image at all"), (borne & (single == 0), "without a single-label image")):
        names = [index.classes[place + 1] for place in np.flatnonzero(chosen)]
        if names:
            report.tell(f"classes {what}: {len(names)} ({', '.join(names)})")


def _draw(shard_path: Path, path: Path, diagonal: str) -> None:
    """Write the probabilities as a heat map; a class without samples gets an empty row."""
    shard = Shard(shard_path, "cooc")
    values, names = shard.root("probability"), shard.classes[1:]
    values[values.sum(axis=1) == 0] = np.nan
    title = f"How likely the column's class is where the row's class is, in % (diagonal: {diagonal})"
    # Pillow takes a tenth of a second, and few ask for a picture.
    from stages.data.heat_table import heat_table
    from stages.data.images import encode_png
    picture = heat_table(values, names, title=title)
    make_folder(path.absolute().parent)
    replace_file(path, encode_png(picture))
