"""What `train-aff` makes of every image before the training, in worker processes."""

from __future__ import annotations

from dataclasses import dataclass

from stages.data.source import ImageSource
from stages.errors import BadData
from stages.flow.maps import full_size
from stages.shards import Item, Run
from stages.train_aff.labels import confident_areas, scores_at


@dataclass(frozen=True)
class LabelWork:
    """Where the maps and images are, and how labels are made of them."""

    index: tuple[str, ...]
    cams: str
    root: str | None
    low_alpha: float
    high_alpha: float
    cell: int


class LabelMaker:
    """Makes the labels of pairs of one image after the other."""

    def __init__(self, work: LabelWork) -> None:
        self.work, self.cams = work, Run([work.cams], "cams")
        self.images = {item_id: source for source in (ImageSource(shard, work.root) for shard
                                                      in Run(work.index, "index").shards)
                       for item_id in source.index.ids}

    def __call__(self, item_id: str) -> Item:
        """Return the item with `label` (h, w). Raises BadData for an image or maps that can't be used."""
        item = self.cams.item(item_id)
        if item.error is not None:
            raise BadData(item.error)
        image = self.images[item_id].image(item_id)
        maps, _ = full_size(item, len(self.cams.classes) - 1)
        if image.shape[:2] != maps.shape[1:]:
            raise BadData(f"the image is {image.shape[:2]}, its maps are for {maps.shape[1:]}", "make the maps again")
        scores = (scores_at(image, maps, alpha, self.work.cell)
                  for alpha in (self.work.low_alpha, self.work.high_alpha))
        return Item(item_id, {"label": confident_areas(*scores)})
