"""The container: what a shard is, how it is written, resumed, read and checked. See FORMAT.md."""

from stages.shards.check import check_shard
from stages.shards.history import joined_history, made_otherwise
from stages.shards.items import Item, checked_id
from stages.shards.journal import Journal, part_path
from stages.shards.reader import Shard
from stages.shards.repair import Salvage, salvage
from stages.shards.request import (
    differences,
    joined_digest,
    provenance_entry,
    request_of,
    sha256_of,
)
from stages.shards.run import Run, check_name, check_same_run, expand, missing_parts, numbered, same_classes
from stages.shards.schema import KINDS, shard_name
from stages.shards.writer import Contents, strings, write_shard

__all__ = [
    "KINDS", "Contents", "Item", "Journal", "Run", "Salvage", "Shard", "check_name", "check_same_run", "check_shard",
    "checked_id", "differences", "expand", "joined_digest", "joined_history", "made_otherwise", "missing_parts",
    "numbered", "part_path", "provenance_entry", "request_of", "salvage", "same_classes", "sha256_of", "shard_name",
    "strings", "write_shard",
]
