"""Reads the items of a finished shard as the map stage that wrote it computed them."""

from __future__ import annotations

from collections.abc import Iterable

from stages.shards import KINDS, Item, Shard


def read_items(shard: Shard) -> Iterable[Item]:
    """Return the items of a finished shard; one per row for a kind without items."""
    kind = KINDS[shard.kind]
    if kind.item:
        return shard.items()
    arrays = {array.name: shard.read_root(array.name) for array in kind.root}
    return [Item(item_id, {name: rows[row] for name, rows in arrays.items()}, error=shard.errors.get(item_id))
            for row, item_id in enumerate(shard.ids)]
