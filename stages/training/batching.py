"""Decide which images make up which batch, and load the batches ahead in threads.

The order depends on seed, epoch and world size only, so a resumed training sees the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

Sample = Mapping[str, np.ndarray]
# Last word of the seed of a batch's generator, which makes it differ from the generator of the batch's first sample.
_BATCH_SEED = 1
_NUM_BATCHES_AHEAD = 2


def count_steps_per_epoch(num_images: int, batch_size: int, world_size: int) -> int:
    """Return the number of full batches in an epoch; 1 when the images do not fill a batch."""
    return max(1, num_images // (batch_size * world_size))


def select_batch_indices(num_images: int, batch_size: int, seed: int, epoch: int, step: int, rank: int,
                         world_size: int) -> list[int]:
    """Return the image positions in the batch of process `rank` at `step` of `epoch`.

    Every process gets equally many. When there are fewer images than one batch over all processes, the first images
    are repeated to fill the last process's batch.
    """
    global_batch_size = batch_size * world_size
    global_batch = _shuffle_images(num_images, seed, epoch)[step * global_batch_size:(step + 1) * global_batch_size]
    padded_size = -(-len(global_batch) // world_size) * world_size
    return np.resize(global_batch, padded_size)[rank::world_size].tolist()


@lru_cache(maxsize=2)
def _shuffle_images(num_images: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_images)


def iterate_batches(draw_sample: Callable[..., Sample], planned_batches: Iterator[tuple[int, list[int]]], seed: int,
                    workers: int, draw_batch_value: Callable[[np.random.Generator], Any] | None = None,
                    ) -> Iterator[dict[str, torch.Tensor]]:
    """Yield a batch for each (epoch, positions) of `planned_batches`, loaded ahead in `workers` threads.

    `draw_sample(position, generator)` returns one sample; its generator depends on seed, epoch and position only, so
    neither threads nor interruptions change what is drawn. With `draw_batch_value`, `draw_sample` gets its result as
    third argument; that generator depends on seed, epoch and the batch's first position only.
    """
    def build_tasks(epoch: int, positions: list[int]) -> list[Callable[[], Sample]]:
        batch_value = () if draw_batch_value is None else (
            draw_batch_value(np.random.default_rng([seed, epoch, positions[0], _BATCH_SEED])),)
        return [partial(draw_sample, position, np.random.default_rng([seed, epoch, position]), *batch_value)
                for position in positions]

    if workers == 0:
        for epoch, positions in planned_batches:
            yield collate_samples([task() for task in build_tasks(epoch, positions)])
        return
    with ThreadPoolExecutor(workers) as pool:
        def submit_next_batch() -> list | None:
            planned = next(planned_batches, None)
            return planned and [pool.submit(task) for task in build_tasks(*planned)]

        queue = [submit_next_batch() for _ in range(_NUM_BATCHES_AHEAD)]
        try:
            while queue[0] is not None:
                futures = queue.pop(0)
                queue.append(submit_next_batch())
                yield collate_samples([future.result() for future in futures])
        finally:
            pool.shutdown(cancel_futures=True)


def collate_samples(samples: list[Sample]) -> dict[str, torch.Tensor]:
    """Stack samples into one batch of tensors."""
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
