"""`pseudo`: maps to pseudo masks."""

from __future__ import annotations

from collections.abc import Sequence

from stages.errors import BadData, UsageError
from stages.flow.background import resolve_background
from stages.flow.background_share import CountingReport
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.map_loop import run_map
from stages.flow.maps import full_size, includes_background
from stages.flow.parts import Part
from stages.flow.work import MapWork
from stages.kernels.background import Background
from stages.pseudo.config import DEFAULT_BACKGROUND, PseudoConfig
from stages.pseudo.masks import pseudo_mask
from stages.settings import as_plain
from stages.shards import Item, Shard


def run(config: PseudoConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the masks of `cams` shards, and warn where almost all their pixels are background, or ignored.

    Raises UsageError, MissingInput, BadData.
    """
    _, recorded = resolve_background(config.background or DEFAULT_BACKGROUND)
    plain = {**as_plain(config), "background": recorded if config.background else "default"}
    work = MapWork("pseudo", "", "masks", ("cams",), "stages.pseudo.stage:PseudoWorker", config, plain,
                   threads=config.threads)
    counting = CountingReport(report, inputs.index)
    summary = run_map(work, inputs, output, stop=stop, report=counting)
    warning = "" if output.dry_run else counting.counts.warning(
        "check --background, for example against wsss eval on the maps, and look at the maps with wsss show",
        "lower --min-confidence, or look at the maps with wsss show")
    if warning:
        report.tell(warning)
    return summary


class PseudoWorker:
    """Holds the rule of the background."""

    def __init__(self, work: MapWork) -> None:
        self.config = work.config
        self.background, _ = resolve_background(self.config.background or DEFAULT_BACKGROUND)

    def open(self, part: Part, source: Shard, index: Shard) -> _PseudoPart:
        """Begin a part; UsageError when a background is given for maps that include one."""
        if includes_background(source) and self.config.background:
            raise UsageError(f"{source.path} includes the background, so --background has no meaning",
                             "leave --background out")
        competes = includes_background(source)
        return _PseudoPart(source, None if competes else self.background, self.config.min_confidence)


class _PseudoPart:
    """The maps of one part."""

    def __init__(self, source: Shard, background: Background | None, min_confidence: float) -> None:
        self.source, self.background, self.min_confidence = source, background, min_confidence
        self.classes, self.root_attrs = source.classes, {}

    def key(self, item_id: str) -> None:
        """Any images make a batch."""

    def load(self, item_id: str) -> Item:
        """Return the item's maps."""
        return self.source.item(item_id)

    def compute(self, loaded: Sequence[tuple[str, Item]]) -> list[Item]:
        """Return the items of a batch."""
        return [self._item(item) for _, item in loaded]

    def _item(self, item: Item) -> Item:
        rows, class_ids = full_size(item, len(self.classes) - 1)
        if not len(rows) and self.background is None:
            raise BadData("has no row to choose from", where=item.id)
        mask, confidence = pseudo_mask(rows, class_ids, self.background, n_classes=len(self.classes) - 1,
                                       min_confidence=self.min_confidence)
        if not self.classes[0]:
            # A data set without background: what no class claims is unknown, not background.
            mask[mask == 0] = 255 if mask.dtype.itemsize == 1 else 65535
        return Item(item.id, {"mask": mask, "confidence": confidence})
