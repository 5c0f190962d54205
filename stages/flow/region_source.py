"""Reads the regions of images from a run of kind `regions`, wherever a method needs them besides its input."""

from __future__ import annotations

import numpy as np

from stages.data.image_size import resize_labels
from stages.errors import BadData
from stages.flow.index_lookup import check_same_images
from stages.flow.item_arrays import extract_regions
from stages.shards import Run, Shard


class RegionSource:
    """The regions of a run, by image."""

    def __init__(self, path: str) -> None:
        """Open the run at `path`. Raises MissingInput, BadData for another kind."""
        self.path, self.run = path, Run([path], "regions")

    def check_images(self, index: Shard) -> None:
        """Raise BadData if the regions were made from other images of the same ids than those of `index`."""
        check_same_images(Run([index.path], "index"), self.run)

    def read(self, item_id: str, size: tuple[int, int], input_size: tuple[int, int]) -> np.ndarray:
        """Return the labels (H', W') int32 of an image of `size`, 0 for none, reduced to `input_size`.

        Raises BadData, which fails this image alone, if there are none or they have another size.
        """
        if item_id not in self.run:
            raise BadData(f"the image is not in --regions {self.path}", "Make the regions of all images of the index",
                          where=item_id)
        item = self.run.item(item_id)
        if item.error is not None:
            raise BadData(f"its regions failed: {item.error}", where=item_id)
        labels = extract_regions(item)
        if labels.shape != size:
            raise BadData(f"its regions in {self.path} have {labels.shape[0]} x {labels.shape[1]} pixels, the image "
                          f"{size[0]} x {size[1]}", "Make the regions again from these images", where=item_id)
        return resize_labels(labels, input_size)
