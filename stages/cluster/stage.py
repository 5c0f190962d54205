"""`cluster`: the images of every class, parted into sub-categories by their features."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.images import encode_png
from stages.data.sheet import contact_sheet
from stages.data.source import ImageSource
from stages.errors import BadData, Stopped, UsageError
from stages.flow.cluster_table import cluster_table
from stages.flow.execution import Inputs, Output, Report, Stop, Summary, check_picture
from stages.flow.one_shard import check_one_file, shard_before, write_one_shard
from stages.flow.parts import find_index
from stages.settings import as_plain
from stages.shards import Contents, Run, Shard, provenance_entry
from stages.shards.disk import make_folder, replace_file

METHODS = {"finch": "stages.cluster.finch", "kmeans": "stages.cluster.kmeans"}
_MOST_ON_SHEET = 12  # images of a cluster


@dataclass
class _Table:
    """The clusters of all classes so far: images x classes."""

    assignment: np.ndarray
    n_clusters: np.ndarray
    partitions: dict[int, list[np.ndarray]] = field(default_factory=dict)
    rows: dict[int, np.ndarray] = field(default_factory=dict)

    def datasets(self) -> dict[str, np.ndarray]:
        """Return the root datasets; a class with fewer partitions repeats its coarsest."""
        found = {"assignment": self.assignment, "n_clusters": self.n_clusters}
        if not self.partitions:
            return found
        most = max(map(len, self.partitions.values()))
        stacked = np.full((most, *self.assignment.shape), -1, dtype=np.int32)
        counts = np.zeros(self.assignment.shape[1], dtype=np.int32)
        for class_id, each in self.partitions.items():
            counts[class_id] = len(each)
            for level in range(most):
                stacked[level, self.rows[class_id], class_id] = each[min(level, len(each) - 1)]
        return {**found, "partitions": stacked, "n_partitions": counts}


def run(method: str, config: Any, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the clusters of every class. Raises UsageError, MissingInput, BadData, CannotCreate."""
    check_one_file(output)
    _check(config)
    if sheet := inputs.named.get("sheet"):
        check_picture(sheet, "--sheet")
    features = Run(inputs.paths, "features")
    entry = provenance_entry("cluster", method, as_plain(config), {"features": features.digest})
    summary = shard_before(output.path, entry, output)
    if output.dry_run:
        report.tell(f"{output.path} is up to date" if summary else f"would write {output.path}")
        if summary:
            report.finished(output.path)
        return summary or Summary()
    if not summary:
        index = find_index(features.first, inputs.index)
        table = _clustered(method, config, features, stop, report)
        contents = Contents("clusters", features.classes, ids=list(features.ids),
                            provenance=[*features.first.provenance, entry], root_datasets=table.datasets())
        refused = [one for shard in features.shards for one in shard.errors.items()]
        summary = write_one_shard(output, contents, (features.first.index_digest, index), refused)
    _tell(Shard(output.path, "clusters"), report)
    if inputs.named.get("sheet"):
        _write_sheet(Path(str(inputs.named["sheet"])), output.path, features, inputs)
        report.tell(str(inputs.named["sheet"]))
    report.finished(output.path)
    return summary


def _check(config: Any) -> None:
    partition = getattr(config, "partition", "last")
    if partition != "last" and not partition.isdecimal():
        raise UsageError(f"--partition {partition} is neither last nor a number from 0")
    if partition != "last" and config.clusters:
        raise UsageError("--partition and --clusters exclude each other", "give one of them")


def _clustered(method: str, config: Any, features: Run, stop: Stop, report: Report) -> _Table:
    """Cluster the images of each class."""
    cluster = importlib.import_module(METHODS[method]).clusters
    points = np.concatenate([shard.root("features") for shard in features.shards])
    labels = np.concatenate([shard.root("labels") for shard in features.shards])
    if not np.isfinite(points).all():
        place = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise BadData("its features are not finite numbers", "make the features again",
                      where=f"{features.first.path}: {list(features.ids)[place]}")
    table = _Table(np.full(labels.shape, -1, dtype=np.int32), np.zeros(labels.shape[1], dtype=np.int32))
    report.begin("classes", labels.shape[1] - 1)
    for class_id in range(1, labels.shape[1]):
        if stop.requested:
            raise Stopped("stopped", "run the same command again")
        rows = np.flatnonzero(labels[:, class_id])
        if len(rows):
            chosen, partitions = cluster(points[rows], config)
            table.assignment[rows, class_id], table.n_clusters[class_id] = chosen, chosen.max() + 1
            table.rows[class_id] = rows
            if partitions:
                table.partitions[class_id] = partitions
        report.advance()
    return table


def _tell(shard: Shard, report: Report) -> None:
    """Tell how many clusters each class has."""
    for name, told in cluster_table(shard).items():
        levels = " ".join(map(str, told.get("partitions", ())))
        report.tell(f"{name}: {told['images']} images, {told['clusters']} clusters"
                    + (f" (partitions of {levels})" if levels else ""))


def _write_sheet(path: Path, clusters: Path, features: Run, inputs: Inputs) -> None:
    """Write a contact sheet: a row a cluster, its first images from left to right."""
    shard = Shard(clusters, "clusters")
    assignment, counts = shard.root("assignment"), shard.root("n_clusters")
    images = {}
    for index_path in {find_index(one, inputs.index) for one in features.shards}:
        source = ImageSource(Shard(index_path, "index"), inputs.root)
        images |= dict.fromkeys(source.index.ids, source)
    rows, titles = [], []
    for class_id in range(1, assignment.shape[1]):
        for cluster in range(counts[class_id]):
            places = np.flatnonzero(assignment[:, class_id] == cluster)
            ids = [shard.ids[place] for place in places[:_MOST_ON_SHEET]]
            rows.append([images[item_id].image(item_id) for item_id in ids])
            titles.append(f"{shard.classes[class_id]} {cluster}: {len(places)} images")
    if not rows:
        raise BadData("no class has an image, so there is nothing to draw", where=str(clusters))
    picture = contact_sheet(rows, row_titles=titles, cell=(90, 120))
    make_folder(path.absolute().parent)
    replace_file(path, encode_png(picture))
