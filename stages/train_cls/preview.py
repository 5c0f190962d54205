"""Draw pasted pairs, to look at before training on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.data.contact_sheets import render_contact_sheet
from stages.data.copy_paste import PastedPair
from stages.data.draw import class_colours, overlay_mask
from stages.data.masks import IGNORE_8_BIT

COLUMN_TITLES = ("single-label image", "multi-label image", "object pasted", "its mask", "background pasted",
                 "its mask")


def draw_pair_sheet(pairs: Sequence[tuple[PastedPair, int]], titles: Sequence[str],
                    classes: Sequence[str]) -> np.ndarray:
    """Return a contact sheet (H, W, 3) uint8 with one row for each (pair, class id of its object).

    The object's mask has the colour of its class; the pasted background is hatched.
    """
    rows = [[pair.single, pair.multi, pair.foreground,
             overlay_mask(pair.foreground, np.where(pair.object_mask, class_id, 0).astype(np.uint16)), pair.background,
             overlay_mask(pair.background, np.where(pair.background_mask, IGNORE_8_BIT, 0).astype(np.uint8))]
            for pair, class_id in pairs]
    present = sorted({class_id for _, class_id in pairs})
    colours = [tuple(colour) for colour in class_colours(present).tolist()]
    return render_contact_sheet(rows, column_titles=COLUMN_TITLES, row_titles=titles, cell=(180, 180),
                                legend=list(zip([classes[class_id] for class_id in present], colours, strict=True)))

