"""`refine`: maps that follow the borders in the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.data.source import ImageSource
from stages.errors import BadData, UsageError
from stages.flow.background import resolve_background
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.map_loop import run_map
from stages.flow.maps import full_size, includes_background
from stages.flow.packages import need_pydensecrf
from stages.flow.parts import Part
from stages.flow.work import MapWork
from stages.kernels.background import Background
from stages.refine.config import BACKGROUNDS, CrfConfig
from stages.refine.crf import refined
from stages.settings import as_plain
from stages.shards import Item, Shard


def run_crf(config: CrfConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the posteriors of `cams` shards at full size. Raises Unavailable without pydensecrf, UsageError."""
    need_pydensecrf()
    background, recorded = resolve_background(config.background or BACKGROUNDS[config.preset])
    if background.rule == "two-thresholds":
        raise UsageError("--background two-thresholds has no unary", "give constant:V or power:A")
    plain = {**as_plain(config), "background": recorded, "engine": "pydensecrf"}
    work = MapWork("refine", "crf", "cams", ("cams",), "stages.refine.stage:CrfWorker", config, plain,
                   root=inputs.root, threads=config.threads)
    return run_map(work, inputs, output, stop=stop, report=report)


class CrfWorker:
    """Holds the settings."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.config = work, work.config
        self.background, _ = resolve_background(self.config.background or BACKGROUNDS[self.config.preset])

    def open(self, part: Part, source: Shard, index: Shard) -> _CrfPart:
        """Begin a part; UsageError when a background is given for maps that include one."""
        if includes_background(source) and self.config.background:
            raise UsageError(f"{source.path} includes the background, so --background has no meaning",
                             "leave --background out")
        competes = includes_background(source) or not source.classes[0]
        return _CrfPart(source, ImageSource(index, self.work.root), None if competes else self.background,
                        self.config)


class _CrfPart:
    """The maps and images of one part."""

    def __init__(self, source: Shard, images: ImageSource, background: Background | None, config: CrfConfig) -> None:
        self.source, self.images, self.background, self.config = source, images, background, config
        self.classes, self.root_attrs = source.classes, {"background": "included"}

    def key(self, item_id: str) -> None:
        """Any images make a batch."""

    def load(self, item_id: str) -> tuple[Item, np.ndarray]:
        """Return the item's maps and its image."""
        return self.source.item(item_id), self.images.image(item_id)

    def compute(self, loaded: Sequence[tuple[str, tuple[Item, np.ndarray]]]) -> list[Item]:
        """Return the items of a batch."""
        return [self._item(item, image) for _, (item, image) in loaded]

    def _item(self, item: Item, image: np.ndarray) -> Item:
        size = (item.attrs["height"], item.attrs["width"])
        if image.shape[:2] != size:
            raise BadData(f"the image is {image.shape[:2]}, its maps are for {size}", "make the maps again",
                          where=item.id)
        rows, class_ids = full_size(item, len(self.classes) - 1)
        if not len(rows) and self.background is None:
            raise BadData("has no row to choose from", where=item.id)
        posteriors, ids = refined(image, rows, class_ids, self.background, self.config)
        attrs = {"height": size[0], "width": size[1], "covers": np.array(size)}
        return Item(item.id, {"class_ids": ids, "cam": posteriors}, attrs)
