"""Which images make which batch: a function of seed, epoch and world alone, so a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch

Sample = Mapping[str, np.ndarray]
# Ends the seed of a batch's generator, which so differs from that of its first sample.
_OF_BATCH = 1


def steps_per_epoch(n_images: int, batch_size: int, world_size: int) -> int:
    """Return the number of full batches in an epoch; at least one, which may then be smaller."""
    return max(1, n_images // (batch_size * world_size))


def batch_positions(n_images: int, batch_size: int, seed: int, epoch: int, step: int, rank: int,
                    world_size: int) -> list[int]:
    """Return the images of one process's batch at `step` of `epoch`, equally many for every process.

    Where there are fewer images than one batch of all processes, the first ones fill up the last share.
    """
    together = batch_size * world_size
    chosen = _order(n_images, seed, epoch)[step * together:(step + 1) * together]
    return np.resize(chosen, -(-len(chosen) // world_size) * world_size)[rank::world_size].tolist()


@lru_cache(maxsize=2)
def _order(n_images: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(n_images)


def batches(draw: Callable[..., Sample], wanted: Iterator[tuple[int, list[int]]], seed: int, workers: int,
            draw_shared: Callable[[np.random.Generator], Any] | None = None) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the batches that `wanted` names as (epoch, positions), made ahead in `workers` threads.

    `draw(position, generator)` gives one sample; its generator depends on seed, epoch and position only,
    so neither threads nor interruptions change what is drawn. With `draw_shared`, `draw` also gets what that returns
    for the batch, from a generator that depends on seed, epoch and the batch's first position only.
    """
    def tasks(epoch: int, positions: list[int]) -> list[Callable[[], Sample]]:
        shared = () if draw_shared is None else (
            draw_shared(np.random.default_rng([seed, epoch, positions[0], _OF_BATCH])),)
        return [partial(draw, position, np.random.default_rng([seed, epoch, position]), *shared)
                for position in positions]

    if workers == 0:
        for epoch, positions in wanted:
            yield stacked([task() for task in tasks(epoch, positions)])
        return
    with ThreadPoolExecutor(workers) as pool:
        def submit() -> list | None:
            following = next(wanted, None)
            return following and [pool.submit(task) for task in tasks(*following)]

        ahead = [submit(), submit()]
        try:
            while ahead[0] is not None:
                futures = ahead.pop(0)
                ahead.append(submit())
                yield stacked([future.result() for future in futures])
        finally:
            pool.shutdown(cancel_futures=True)


def stacked(samples: list[Sample]) -> dict[str, torch.Tensor]:
    """Return samples as one batch of tensors."""
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
