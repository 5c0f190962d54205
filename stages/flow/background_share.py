"""Whether masks are background almost everywhere, which is how a wrong threshold or empty maps show.

A mask of an image with a class has some of it: of VOC's true pixels 73 in 100 are background, and a data set of small
objects has more. With 99 in 100 or more over a whole run the masks say next to nothing of any class, yet every later
stage accepts them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.data.source import ImageSource
from stages.flow.execution import Report
from stages.flow.parts import find_index
from stages.shards import Shard

LARGEST_SHARE = 0.99
# Images with a class that are counted of a run of masks: enough to see that almost all is background, and a run of
# 100,000 masks that is up to date is not read again as a whole.
MOST_COUNTED = 1000


class PixelCounts:
    """Adds up the pixels of masks: all, background and ignored ones."""

    def __init__(self) -> None:
        self.images = self.pixels = self.background = self.ignored = 0

    def add(self, mask: np.ndarray) -> None:
        """Count a mask (H, W) in, of 0..C and the largest value of its type for what is ignored."""
        self.images += 1
        self.pixels += mask.size
        self.background += int(np.count_nonzero(mask == 0))
        self.ignored += int(np.count_nonzero(mask == np.iinfo(mask.dtype).max))

    def warning(self, check_background: str, check_ignored: str) -> str:
        """Return a warning that ends with what to check; empty where there is nothing to say."""
        decided = self.pixels - self.ignored
        if self.pixels and self.ignored > LARGEST_SHARE * self.pixels:
            return (f"warning: {self.ignored / self.pixels:.2%} of the pixels of {self.images} images with a class are "
                    f"ignored; {check_ignored}")
        if decided and self.background > LARGEST_SHARE * decided:
            return (f"warning: {self.background / decided:.2%} of the pixels of {self.images} images with a class are "
                    f"background; {check_background}")
        return ""


class CountingReport:
    """A report that also counts the pixels of finished shards of masks, also of those that were there before.

    The first `MOST_COUNTED` images count. Images whose index says that they have no class are left out.
    """

    def __init__(self, report: Report, index: str | None) -> None:
        self._report, self._index, self.counts = report, index, PixelCounts()
        self.begin, self.advance, self.tell, self.detail = report.begin, report.advance, report.tell, report.detail

    def finished(self, path: Path) -> None:
        """Count the masks of a shard, and pass the path on."""
        if self.counts.images < MOST_COUNTED:
            self._count(path)
        self._report.finished(path)

    def _count(self, path: Path) -> None:
        shard = Shard(path, "masks")
        images = ImageSource(Shard(find_index(shard, self._index), "index"))
        indexed = set(images.index.ids)
        for item in shard.items():
            if item.error is None and not (item.id in indexed and images.labels(item.id) == ()):
                self.counts.add(item.datasets["mask"])
            if self.counts.images == MOST_COUNTED:
                break
        shard.close()
