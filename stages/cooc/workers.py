"""Counts the tags of a share of the images of an index."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from stages.cooc.matrix import count_cooccurrences
from stages.errors import BadData
from stages.flow.counting import Advance, Counts
from stages.shards import Run


@dataclass(frozen=True)
class TagCounter:
    """Counts the tags of a share of the images of `index`; memory: the labels of the share."""

    index: Run
    diagonal: str

    def __call__(self, positions: range, advance: Advance) -> Counts:
        """Return the counts of the images at `positions`, all of them to be added up. Raises BadData.

        `counts` and `single` are those of `count_cooccurrences`; `num_labels` (3,) are the images with none, one and
        several labels, `num_unknown` those with unknown labels, `images_of_class` (C,) those with each class.
        """
        num_classes = len(self.index.classes) - 1
        rows, num_unknown = [], 0
        for where, labels in self._iterate_labels(positions, advance):
            if labels is None:
                num_unknown += 1
            else:
                rows.append(_validate_class_ids(labels, num_classes, where))
        class_ids = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        labels_per_image = np.array([len(row) for row in rows], np.int64)
        counts, single = count_cooccurrences(class_ids, labels_per_image, num_classes, self.diagonal)
        return {"sum.counts": counts, "sum.single": single, "sum.num_unknown": np.array(num_unknown),
                "sum.num_labels": np.bincount(labels_per_image.clip(max=2), minlength=3),
                "sum.images_of_class": np.bincount(class_ids.astype(np.int64) - 1, minlength=num_classes)}

    def _iterate_labels(self, positions: range, advance: Advance) -> Iterator[tuple[str, np.ndarray | None]]:
        """Yield (where the item is, its labels or None) of the images that the index did not reject."""
        first = 0
        for shard in self.index.shards:
            share = slice(max(positions.start - first, 0), max(positions.stop - first, 0))
            first += len(shard.ids)
            ids = shard.ids[share]
            for item_id, labels in shard.iterate_datasets("labels", ids) if ids else ():
                advance()
                yield f"{shard.path}: item {item_id}", labels


def _validate_class_ids(labels: np.ndarray, num_classes: int, where: str) -> np.ndarray:
    """Return the labels of an image without duplicates. Raises BadData for ids that are not a class."""
    ids = sorted(set(labels.tolist()))
    if ids and not 1 <= ids[0] <= ids[-1] <= num_classes:
        raise BadData(f"the labels {labels.tolist()} are not all class ids from 1 to {num_classes}",
                      "Run `wsss index` again", where=where)
    return labels if len(ids) == len(labels) else np.array(ids, dtype=labels.dtype)
