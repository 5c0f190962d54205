"""A look at pasted pairs before anything is trained on them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stages.data.draw import class_colours, overlay
from stages.data.masks import IGNORE_8_BIT
from stages.data.paste import Pair
from stages.data.sheet import contact_sheet

COLUMNS = ("single-label image", "multi-label image", "object pasted", "its mask", "background pasted", "its mask")


def pairs_sheet(pairs: Sequence[tuple[Pair, int]], titles: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Return a contact sheet (H, W, 3) uint8: a row for each pair with the class id of its object.

    The object's mask has the colour of its class; where the background was pasted stands hatched.
    """
    rows = [[pair.single, pair.multi, pair.foreground,
             overlay(pair.foreground, np.where(pair.object, class_id, 0).astype(np.uint16)), pair.background,
             overlay(pair.background, np.where(pair.surroundings, IGNORE_8_BIT, 0).astype(np.uint8))]
            for pair, class_id in pairs]
    present = sorted({class_id for _, class_id in pairs})
    colours = [tuple(colour) for colour in class_colours(present).tolist()]
    return contact_sheet(rows, column_titles=COLUMNS, row_titles=titles, cell=(180, 180),
                         legend=list(zip([classes[class_id] for class_id in present], colours, strict=True)))

