"""Compares the classes of imported masks and maps with the tags of their images, to find classes in another order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from stages.data.image_source import ImageSource
from stages.flow.execution import Report
from stages.flow.index_lookup import find_index
from stages.shards import Shard


class TagComparingReport:
    """A report that also compares the classes in finished shards of masks or cams with the tags of the index.

    `num_compared` images have tags. In `num_with_others` of them there is a class that is not among the tags, and in
    `num_without_some` a tag has no pixel or map; `example` and `missing_example` describe the first of each.
    """

    def __init__(self, report: Report, index: str | None) -> None:
        self._report, self._index = report, index
        self.num_compared = self.num_with_others = self.num_without_some = 0
        self.example = self.missing_example = ""
        self.start_phase, self.start_progress = report.start_phase, report.start_progress
        self.set_total, self.advance = report.set_total, report.advance
        self.info, self.debug = report.info, report.debug

    def print_path(self, path: Path) -> None:
        """Compare the classes of a finished shard, and pass the path on."""
        shard = Shard(path)
        source = ImageSource(Shard(find_index(shard, self._index), "index"))
        for item_id, class_ids in _iterate_class_ids(shard):
            labels = source.read_labels(item_id)
            if labels is not None:
                self._compare(item_id, class_ids, set(labels), shard.classes)
        shard.close()
        self._report.print_path(path)

    def _compare(self, item_id: str, class_ids: set[int], labels: set[int], classes: tuple[str, ...]) -> None:
        self.num_compared += 1
        others, missing = sorted(class_ids - labels), sorted(labels - class_ids)
        self.num_with_others += bool(others)
        self.num_without_some += bool(missing)
        tags = ", ".join(classes[class_id] for class_id in sorted(labels)) or "nothing"
        if others and not self.example:
            self.example = f"{item_id} has {classes[others[0]]} and is tagged {tags}"
        if missing and not self.missing_example:
            self.missing_example = f"{item_id} is tagged {tags}, without {classes[missing[0]]}"


def _iterate_class_ids(shard: Shard) -> Iterator[tuple[str, set[int]]]:
    """Yield (id, foreground classes) of every item of a shard of masks or cams."""
    num_classes = len(shard.classes) - 1
    for item_id, values in shard.iterate_datasets("mask" if shard.kind == "masks" else "class_ids"):
        present = np.flatnonzero(np.bincount(values.ravel())).tolist() if values is not None else []
        yield item_id, {class_id for class_id in present if 1 <= class_id <= num_classes}
