"""Groups the images of a part into batches, loads them in reader threads, and turns failures into failed items."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from stages.errors import BadData, OutOfMemory, explain_memory_error
from stages.flow.device import reuse_freed_memory
from stages.flow.finite import check_finite
from stages.flow.map_work import COMPANION_PREFIX, PartWork
from stages.flow.phase_times import DECODE, PhaseTimes
from stages.shards import Item, Shard

_PIXELS_PER_IMAGE = 640 * 480  # the size of most images of COCO
_FAILED = "failed"  # batch key of images that can't be computed
_SMALLER_REMEDY = ("Run the same command with --retry and a smaller -j or on a larger machine, or start over "
                   "with a smaller --max-side")


def build_batches(ids: Sequence[str], source: Shard, part_work: PartWork, batch_size: int) -> list[list[int]]:
    """Divide the positions into batches of equal keys, which depend only on the images and `batch_size`."""
    groups: dict[Any, list[int]] = {}
    for position, item_id in enumerate(ids):
        groups.setdefault(_compute_batch_key(item_id, source, part_work, batch_size), []).append(position)
    batches = []
    for key, group in groups.items():
        is_limited = batch_size > 1 and key != _FAILED
        size = _limit_batch_size(batch_size, part_work.count_pixels(ids[group[0]])) if is_limited else batch_size
        batches += [group[start:start + size] for start in range(0, len(group), size)]
    return sorted(batches)


def _limit_batch_size(batch_size: int, num_pixels: int) -> int:
    """Return the number of images of `num_pixels` in a batch: no more pixels than `batch_size` images of COCO have."""
    return max(1, min(batch_size, batch_size * _PIXELS_PER_IMAGE // max(1, num_pixels)))


def _compute_batch_key(item_id: str, source: Shard, part_work: PartWork, batch_size: int) -> Any:
    try:
        if item_id in source.errors:
            return _FAILED
        return ("valid", part_work.batch_key(item_id) if batch_size > 1 else None)
    except BadData:
        return _FAILED  # loading the item reports the reason


def submit_loads(batch: list[int], ids: Sequence[str], source: Shard, part_work: PartWork,
                  reader: ThreadPoolExecutor, times: PhaseTimes) -> list[tuple[str, Future]]:
    return [(ids[position], reader.submit(_load_item, ids[position], source, part_work, times)) for position in batch]


def _load_item(item_id: str, source: Shard, part_work: PartWork, times: PhaseTimes) -> Any:
    """Return the loaded inputs of an item, or a failed Item: later stages skip an image that cannot be read."""
    with times.measure(DECODE):
        return _try_to_load(item_id, source, part_work)


def _try_to_load(item_id: str, source: Shard, part_work: PartWork) -> Any:
    if item_id in source.errors:
        return Item(item_id, error=source.errors[item_id])
    try:
        return part_work.load(item_id)
    except Exception as error:
        return _build_failed_item(error, item_id, part_work)


def _build_failed_item(error: Exception, item_id: str, part_work: PartWork) -> Item:
    """Return the failed item of an image that is damaged or needs too much memory. Raises any other error."""
    if isinstance(error, BadData):
        return Item(item_id, error=str(error))
    out_of_memory = explain_memory_error(error, _SMALLER_REMEDY)
    if out_of_memory is None or part_work.images is None:
        raise error
    (height, width), (input_height, input_width) = (part_work.images.read_size(item_id),
                                                    part_work.images.read_input_size(item_id))
    return Item(item_id, error=str(OutOfMemory(
        f"{out_of_memory.message} for an image of {width} x {height} pixels, computed at {input_width} x "
        f"{input_height}", out_of_memory.remedy, where=item_id)))


def compute_batch(loaded: list[tuple[str, Any]], part_work: PartWork) -> list[Item]:
    """Return the items of a batch, including those that failed while they were loaded or computed."""
    valid = [(item_id, value) for item_id, value in loaded if not _is_failed_item(value)]
    # Of large images the gaps in the heap would take more memory than the time to fault it in again is worth.
    reuse_freed_memory(all(part_work.count_pixels(item_id) <= _PIXELS_PER_IMAGE for item_id, _ in valid))
    try:
        computed = iter(part_work.compute(valid) if valid else [])
    except Exception as error:
        if not isinstance(error, BadData) and explain_memory_error(error, "") is None:
            raise
        computed = iter([_compute_alone(item_id, value, part_work) for item_id, value in valid])
    return [value if _is_failed_item(value) else _reject_not_finite(next(computed)) for _, value in loaded]


def _reject_not_finite(item: Item) -> Item:
    """Return the item, or a failed item if one of its datasets contains values that are not finite."""
    try:
        for name, array in item.datasets.items():
            check_finite(array, name.removeprefix(COMPANION_PREFIX), item.id)
    except BadData as error:
        return Item(item.id, error=str(error))
    return item


def _compute_alone(item_id: str, value: Any, part_work: PartWork) -> Item:
    """Compute one item of a batch that failed, to find the bad one; a rerun gives the same result."""
    try:
        return part_work.compute([(item_id, value)])[0]
    except Exception as error:
        return _build_failed_item(error, item_id, part_work)


def _is_failed_item(value: Any) -> bool:
    return isinstance(value, Item) and value.error is not None
