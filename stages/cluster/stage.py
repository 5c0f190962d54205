"""`cluster`: divide the images of every class into sub-categories by their features."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.contact_sheets import render_contact_sheet
from stages.data.image_source import ImageSource
from stages.errors import BadData, Stopped, UsageError
from stages.flow.cluster_table import cluster_table
from stages.flow.execution import Inputs, Output, Report, Stop, Summary, check_picture_path
from stages.flow.index_lookup import find_index, find_indexes
from stages.flow.picture_output import report_escapes, write_pictures
from stages.flow.single_shard import (
    check_single_file,
    mark_inherited_failures,
    reuse_existing_shard,
    write_single_shard,
)
from stages.settings import to_json_dict
from stages.shards import Run, Shard, ShardContents, provenance_entry

METHODS = {"finch": "stages.cluster.finch", "kmeans": "stages.cluster.kmeans"}
_SHEET_SIDE = 240  # pixels; images on the sheet are half as large
_MAX_IMAGES_ON_SHEET = 12  # per cluster


@dataclass
class _ClusterTable:
    """The clusters of the classes that have been processed, as arrays of images x classes."""

    assignment: np.ndarray
    num_clusters: np.ndarray
    partitions: dict[int, list[np.ndarray]] = field(default_factory=dict)
    rows: dict[int, np.ndarray] = field(default_factory=dict)

    def build_datasets(self) -> dict[str, np.ndarray]:
        """Return the root datasets; a class with fewer partitions repeats its coarsest."""
        datasets = {"assignment": self.assignment, "n_clusters": self.num_clusters}
        if not self.partitions:
            return datasets
        num_levels = max(map(len, self.partitions.values()))
        stacked = np.full((num_levels, *self.assignment.shape), -1, dtype=np.int32)
        num_partitions = np.zeros(self.assignment.shape[1], dtype=np.int32)
        for class_id, partitions in self.partitions.items():
            num_partitions[class_id] = len(partitions)
            for level in range(num_levels):
                stacked[level, self.rows[class_id], class_id] = partitions[min(level, len(partitions) - 1)]
        return {**datasets, "partitions": stacked, "n_partitions": num_partitions}


def run(method: str, config: Any, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the clusters of every class. Raises UsageError, MissingInput, BadData, CannotCreate."""
    check_single_file(output)
    _check_partition(config)
    if sheet := inputs.named.get("sheet"):
        check_picture_path(sheet, "--sheet")
    report.start_phase("reading the features")
    features = Run(inputs.paths, "features")
    entry = provenance_entry("cluster", method, to_json_dict(config), {"features": features.digest})
    summary = reuse_existing_shard(output.path, entry, output)
    if output.dry_run:
        report.info(f"{output.path} is up to date." if summary else f"Would write {output.path}.")
        if summary:
            report.print_path(output.path)
        return summary or Summary()
    if not summary:
        index = find_index(features.first, inputs.index)
        table = _cluster_classes(method, config, features, stop, report)
        contents = ShardContents("clusters", features.classes, ids=list(features.ids),
                                 provenance=[*features.first.provenance, entry], root_datasets=table.build_datasets(),
                                 image_records=features.read_image_records())
        failed = [failure for shard in features.shards for failure in shard.errors.items()]
        summary = write_single_shard(output, contents, (features.first.index_digest, index), failed)
    _report_clusters(Shard(output.path, "clusters"), report)
    if inputs.named.get("sheet"):
        _write_sheet(Path(str(inputs.named["sheet"])), output.path, features, inputs)
        report_escapes(features.classes[1:], report)
        report.info(f"Wrote the contact sheet {inputs.named['sheet']}.")
    report.print_path(output.path)
    return mark_inherited_failures(summary, features.shards)


def _check_partition(config: Any) -> None:
    """Raise UsageError for a --partition that is not a number, or that --clusters overrides."""
    partition = getattr(config, "partition", "last")
    if partition != "last" and not partition.isdecimal():
        raise UsageError(f"--partition {partition} is not a partition", "Use --partition last, or a number from 0 on")
    if partition != "last" and config.clusters:
        raise UsageError(f"--partition {partition} and --clusters {config.clusters} both choose the clusters",
                         "Use one of them")


def _cluster_classes(method: str, config: Any, features: Run, stop: Stop, report: Report) -> _ClusterTable:
    """Cluster the images of each class. Raises BadData for features that are not finite."""
    compute_clusters = importlib.import_module(METHODS[method]).compute_clusters
    points = np.concatenate([shard.read_root("features") for shard in features.shards])
    labels = np.concatenate([shard.read_root("labels") for shard in features.shards])
    if not np.isfinite(points).all():
        index = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise BadData("the features contain NaN or infinite values", "Run `wsss features` again with --force",
                      where=f"{features.first.path}: {list(features.ids)[index]}")
    table = _ClusterTable(np.full(labels.shape, -1, dtype=np.int32), np.zeros(labels.shape[1], dtype=np.int32))
    report.start_progress("", labels.shape[1] - 1, unit="classes")
    for class_id in range(1, labels.shape[1]):
        if stop.requested:
            raise Stopped("stopped before the end", "Run the same command again")
        rows = np.flatnonzero(labels[:, class_id])
        if len(rows):
            partition, partitions = compute_clusters(points[rows], config)
            table.assignment[rows, class_id], table.num_clusters[class_id] = partition, partition.max() + 1
            table.rows[class_id] = rows
            if partitions:
                table.partitions[class_id] = partitions
        report.advance()
    return table


def _report_clusters(shard: Shard, report: Report) -> None:
    """Report how many clusters each class has."""
    for name, row in cluster_table(shard).items():
        levels = ", ".join(map(str, row.get("partitions", ())))
        report.info(f"{name}: {row['images']} images in {row['clusters']} clusters"
                    + (f" (clusters in each partition: {levels})" if levels else "") + ".")


def _write_sheet(path: Path, clusters: Path, features: Run, inputs: Inputs) -> None:
    """Write a contact sheet with one row per cluster, which shows its first images."""
    shard = Shard(clusters, "clusters")
    assignment, num_clusters = shard.read_root("assignment"), shard.read_root("n_clusters")
    images = {}
    for index_path in find_indexes(features.shards, inputs.index):
        source = ImageSource(Shard(index_path, "index"), inputs.root, max_side=_SHEET_SIDE)
        images |= dict.fromkeys(source.index.ids, source)
    rows, titles = [], []
    for class_id in range(1, assignment.shape[1]):
        for cluster in range(num_clusters[class_id]):
            positions = np.flatnonzero(assignment[:, class_id] == cluster)
            ids = [shard.ids[position] for position in positions[:_MAX_IMAGES_ON_SHEET]]
            rows.append([images[item_id].read_image(item_id) for item_id in ids])
            titles.append(f"{shard.classes[class_id]} {cluster}: {len(positions)} images")
    if not rows:
        raise BadData("no class has an image, so there is nothing to draw", "Remove --sheet", where=str(clusters))
    sheet = render_contact_sheet(rows, row_titles=titles, cell=(90, 120))
    write_pictures(path, [sheet])
