"""The shard container: writing, resuming, reading, checking and repairing shards. See FORMAT.md."""

from stages.shards.check import check_shard
from stages.shards.history import describe_provenance_differences, merge_provenance
from stages.shards.image_records import (
    applies_exif,
    build_image_keys,
    build_image_records,
    concatenate_rows,
    describe_image_difference,
    group_equal_images,
    is_identified,
    mark_training_images,
    read_image_records,
    read_in_training,
    select_image_records,
)
from stages.shards.items import Item, ItemStore, OrderedItems, validate_item_id
from stages.shards.journal import Journal, unfinished_path
from stages.shards.reader import Shard
from stages.shards.repair import SalvageResult, salvage_shard
from stages.shards.request import (
    combine_digests,
    describe_differences,
    extract_request,
    hash_json,
    provenance_entry,
)
from stages.shards.run import (
    Run,
    check_same_classes,
    check_same_run,
    check_shard_name,
    describe_missing_parts,
    find_shard_files,
    parse_shard_name,
)
from stages.shards.schema import KINDS, shard_name
from stages.shards.writer import ShardContents, encode_strings, write_shard

__all__ = [
    "KINDS",
    "Item",
    "ItemStore",
    "Journal",
    "OrderedItems",
    "Run",
    "SalvageResult",
    "Shard",
    "ShardContents",
    "applies_exif",
    "build_image_keys",
    "build_image_records",
    "check_same_classes",
    "check_same_run",
    "check_shard",
    "check_shard_name",
    "combine_digests",
    "concatenate_rows",
    "describe_differences",
    "describe_image_difference",
    "describe_missing_parts",
    "describe_provenance_differences",
    "encode_strings",
    "extract_request",
    "find_shard_files",
    "group_equal_images",
    "hash_json",
    "is_identified",
    "mark_training_images",
    "merge_provenance",
    "parse_shard_name",
    "provenance_entry",
    "read_image_records",
    "read_in_training",
    "salvage_shard",
    "select_image_records",
    "shard_name",
    "unfinished_path",
    "validate_item_id",
    "write_shard",
]
