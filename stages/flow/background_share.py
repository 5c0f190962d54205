"""Warns when the masks of a run are background almost everywhere, the sign of a wrong threshold or empty CAMs.

The mask of an image with a class contains some of it: 73 % of the pixels of VOC's ground truth are background, and a
data set of small objects has more. With 99 % or more over a whole run the masks contain almost nothing of any class,
yet every later stage accepts them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.data.image_source import ImageSource
from stages.flow.execution import Report
from stages.flow.index_lookup import find_index
from stages.shards import Shard

WARNING_SHARE = 0.99
# Counted images with a class per run: enough to detect masks of background only, without reading all of a run of
# 100,000 masks that is up to date.
MAX_COUNTED_IMAGES = 1000


class PixelCounts:
    """Counts the pixels of masks: all, background and ignored ones."""

    def __init__(self) -> None:
        self.num_images = self.num_pixels = self.num_background = self.num_ignored = 0

    def add(self, mask: np.ndarray) -> None:
        """Add the pixels of a mask (H, W) with values 0..C, or the largest value of its type for ignored pixels."""
        self.num_images += 1
        self.num_pixels += mask.size
        self.num_background += int(np.count_nonzero(mask == 0))
        self.num_ignored += int(np.count_nonzero(mask == np.iinfo(mask.dtype).max))

    def build_warning(self, background_hint: str, ignored_hint: str) -> str:
        """Return a warning that ends with one of the hints; empty if the shares are normal."""
        num_decided = self.num_pixels - self.num_ignored
        if self.num_pixels and self.num_ignored > WARNING_SHARE * self.num_pixels:
            share, problem, hint = self.num_ignored / self.num_pixels, "ignored", ignored_hint
        elif num_decided and self.num_background > WARNING_SHARE * num_decided:
            share, problem, hint = self.num_background / num_decided, "background", background_hint
        else:
            return ""
        return f"warning: {share:.2%} of the pixels of {self.num_images} images with a class are {problem}; {hint}"


class PixelCountingReport:
    """A report that also counts the pixels of finished shards of masks, including shards that were up to date.

    Counts the first `MAX_COUNTED_IMAGES` images, and skips images that have no class according to the index.
    """

    def __init__(self, report: Report, index: str | None) -> None:
        self._report, self._index, self.counts = report, index, PixelCounts()
        self.start_phase, self.start_progress = report.start_phase, report.start_progress
        self.set_total, self.advance = report.set_total, report.advance
        self.info, self.debug = report.info, report.debug

    def print_path(self, path: Path) -> None:
        """Count the masks of a finished shard, and pass the path on."""
        if self.counts.num_images < MAX_COUNTED_IMAGES:
            self._count_shard(path)
        self._report.print_path(path)

    def _count_shard(self, path: Path) -> None:
        shard = Shard(path, "masks")
        images = ImageSource(Shard(find_index(shard, self._index), "index"))
        indexed_ids = set(images.index.ids)
        for item in shard.items():
            if item.error is None and not (item.id in indexed_ids and images.read_labels(item.id) == ()):
                self.counts.add(item.datasets["mask"])
            if self.counts.num_images == MAX_COUNTED_IMAGES:
                break
        shard.close()
