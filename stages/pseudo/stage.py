"""`pseudo`: make pseudo masks from CAMs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.errors import BadData, UsageError
from stages.flow.background import resolve_background
from stages.flow.background_share import PixelCountingReport
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.item_arrays import includes_background, read_image_size, resize_to_image_in_bands
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import MapWork
from stages.flow.parts import Part
from stages.kernels.background import Background
from stages.pseudo.config import DEFAULT_BACKGROUND, PseudoConfig
from stages.pseudo.masks import build_pseudo_mask, select_mask_type
from stages.settings import to_json_dict
from stages.shards import Item, Shard


def run(config: PseudoConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the pseudo masks of `cams` shards, and warn if almost all their pixels are background or ignored.

    Raises UsageError, MissingInput, BadData.
    """
    _, recorded = resolve_background(config.background or DEFAULT_BACKGROUND)
    settings = {**to_json_dict(config), "background": recorded if config.background else "default"}
    work = MapWork("pseudo", "", "masks", ("cams",), "stages.pseudo.stage:PseudoWorker", config, settings,
                   threads=config.threads, needs_torch=False)
    counting = PixelCountingReport(report, inputs.index)
    summary = run_map_stage(work, inputs, output, stop=stop, report=counting)
    warning = "" if output.dry_run else counting.counts.build_warning(
        "check --background, for example with wsss eval on the CAMs, and look at the CAMs with wsss show",
        "lower --min-confidence, or look at the CAMs with wsss show")
    if warning:
        report.info(warning)
    return summary


class PseudoWorker:
    """Holds the background rule."""

    def __init__(self, work: MapWork) -> None:
        self.config = work.config
        self.background, _ = resolve_background(self.config.background or DEFAULT_BACKGROUND)

    def open(self, part: Part, source: Shard, index: Shard) -> _PseudoPart:
        """Open a part. Raises UsageError if `--background` is set but the CAMs already include a background."""
        has_background = includes_background(source)
        if has_background and self.config.background:
            raise UsageError("the CAMs already include a background, so --background can't be applied",
                             "Leave out --background", where=str(source.path))
        return _PseudoPart(source, None if has_background else self.background, self.config.min_confidence)


class _PseudoPart:
    """The CAMs of one part."""

    def __init__(self, source: Shard, background: Background | None, min_confidence: float) -> None:
        self.source, self.background, self.min_confidence = source, background, min_confidence
        self.classes, self.root_attrs, self.images = source.classes, {}, None

    def batch_key(self, item_id: str) -> None:
        """Return None: images of any size can be batched together."""

    def count_pixels(self, item_id: str) -> int:
        """Return 0: images are processed one by one."""
        return 0

    def load(self, item_id: str) -> Item:
        """Load the item with its CAMs."""
        return self.source.item(item_id)

    def compute(self, loaded: Sequence[tuple[str, Item]]) -> list[Item]:
        """Compute the pseudo masks of a batch of images, one item per image."""
        return [self._build_item(item) for _, item in loaded]

    def _build_item(self, item: Item) -> Item:
        if not len(item.datasets["cam"]) and self.background is None:
            raise BadData("the image has no CAM to choose from", where=item.id)
        num_classes, size = len(self.classes) - 1, read_image_size(item)
        mask, confidence = np.empty(size, select_mask_type(num_classes)), np.empty(size, np.uint8)
        for band, cams, class_ids in resize_to_image_in_bands(item, num_classes):
            mask[band], confidence[band] = build_pseudo_mask(cams, class_ids, self.background, num_classes=num_classes,
                                                             min_confidence=self.min_confidence)
        if not self.classes[0]:
            # A data set without a background class: pixels without a class are unknown, not background.
            mask[mask == 0] = 255 if mask.dtype.itemsize == 1 else 65535
        return Item(item.id, {"mask": mask, "confidence": confidence})
