"""Reads a bank, the features of the classes of training masks, and checks that it fits a network."""

from __future__ import annotations

import numpy as np

from stages.errors import BadData
from stages.kernels.region_features import select_typical
from stages.nets.map_network import MapNetworkSource
from stages.shards import Run


def check_bank_network(bank: Run, source: MapNetworkSource) -> None:
    """Raise BadData if the features of the bank are those of another network."""
    recorded = bank.first.provenance[-1]["inputs"]
    if any(recorded.get(name) != digest for name, digest in source.compute_digests().items()):
        raise BadData("the bank was made with another network or other weights",
                      "Give the same --net and --weights as to `wsss bank`, or make the bank again",
                      where=str(bank.first.path))


def describe_rare_classes(path: str, drop: float, num_neighbours: int) -> str:
    """Return a warning about classes with so few vectors that they hardly win a vote; empty if there are none."""
    _, class_ids, classes = read_bank(path, drop)
    counts = np.bincount(class_ids, minlength=len(classes))[1:]
    rare = [name for name, count in zip(classes[1:], counts, strict=True) if count <= num_neighbours // 2]
    if not rare:
        return ""
    names = ", ".join(rare[:5]) + (f" and {len(rare) - 5} more" if len(rare) > 5 else "")
    return (f"warning: few regions can become {names}, of which the bank has at most {num_neighbours // 2} vectors "
            f"each, if {num_neighbours} vote. Lower --neighbours, or make a bank of more masks.")


def read_bank(path: str, drop: float) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Return (unit vectors (M, D), class ids (M,), classes) of a bank without the untypical vectors.

    Raises BadData if nothing is in it.
    """
    run = Run([path], "bank")
    items = [item for shard in run.shards for item in shard.items() if item.error is None]
    rows = [item.datasets["features"] for item in items if len(item.datasets["features"])]
    if not rows:
        raise BadData("the bank is empty: no class of any mask is large enough",
                      "Make it again with a smaller --erosion or --min-area", where=str(path))
    features = np.concatenate(rows)
    class_ids = np.concatenate([item.datasets["class_ids"] for item in items]).astype(np.int64)
    is_kept = select_typical(features, class_ids, drop)
    return features[is_kept], class_ids[is_kept], run.classes
