"""Draws the co-occurrence matrix of a `cooc` shard."""

from __future__ import annotations

import numpy as np

from stages.shards import Shard


def draw_cooc(shard: Shard) -> np.ndarray:
    """Draw the probabilities as an annotated heat map (H, W, 3) uint8; a class without samples gets an empty row."""
    # Imported here because Pillow takes a tenth of a second and few runs draw a plot.
    from stages.data.annotated_heat_map import render_annotated_heat_map
    values = shard.read_root("probability")
    values[values.sum(axis=1) == 0] = np.nan
    diagonal = shard.provenance[-1].get("config", {}).get("diagonal", "unknown")
    title = f"How likely the column's class is where the row's class is, in % (diagonal: {diagonal})"
    return render_annotated_heat_map(values, shard.classes[1:], title=title)
