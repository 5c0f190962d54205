"""Train one network in several processes, started by torchrun (or by srun with torchrun's variables set)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from stages.flow.execution import Report, SilentReport


@dataclass(frozen=True)
class World:
    """The rank of this process and the world size, over all machines and on this one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """True in the one process that writes files and reports."""
        return self.rank == 0


def read_world_size() -> int:
    """Return the number of processes that train together, from torchrun's environment; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def mute_unless_main_process(report: Report) -> Report:
    """Return `report` in the main process, and a silent report in all others."""
    return report if os.environ.get("RANK", "0") == "0" else SilentReport()


@contextmanager
def join_process_group(device: str) -> Iterator[World]:
    """Join the process group that torchrun's environment describes (gloo on CPUs, nccl on GPUs), if there is one."""
    size = read_world_size()
    if size == 1:
        yield World()
        return
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield World(distributed.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")),
                    int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    finally:
        distributed.destroy_process_group()


def broadcast_weights(net: nn.Module, world: World) -> None:
    """Copy the weights and buffers of the main process to every process."""
    if world.size > 1:
        for tensor in (*net.parameters(), *net.buffers()):
            distributed.broadcast(tensor.data, 0)


def average_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Replace every gradient by its mean over the processes, in a single all-reduce."""
    if world.size == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= world.size
    chunks = flat.split([gradient.numel() for gradient in gradients])
    for gradient, chunk in zip(gradients, chunks, strict=True):
        gradient.copy_(chunk.view_as(gradient))


class _AllGather(torch.autograd.Function):
    """Concatenate the tensors of all processes; each gets back the sum of its gradients over all processes."""

    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        return gradient.chunk(distributed.get_world_size())[distributed.get_rank()]


def gather_across_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensors (B, ...) of all R processes as one tensor (R B, ...), in the order of their ranks.

    When every process computes the same loss from it, the gradient after `average_gradients` is the one that a single
    process with all samples would compute.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    return _AllGather.apply(tensor)


def get_rank() -> int:
    """Return the rank of this process, 0 when it trains alone."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def is_set_on_any_rank(flag: bool, world: World, device: torch.device) -> bool:
    """Return whether `flag` is set in any process, so that all stop after the same step."""
    if world.size == 1:
        return flag
    largest = torch.tensor([int(flag)], device=device)
    distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
    return bool(largest.item())
