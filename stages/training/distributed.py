"""Several processes that train one net, started by torchrun (or srun with its variables set)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from stages.flow.execution import Report, Silent


@dataclass(frozen=True)
class World:
    """This process among the others."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """True in the one process that writes and speaks."""
        return self.rank == 0


def processes() -> int:
    """Return how many processes train together, as torchrun's environment says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def heard(report: Report) -> Report:
    """Return `report` in the first process, and one that nobody reads in the others."""
    return report if os.environ.get("RANK", "0") == "0" else Silent()


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the group that torchrun's environment describes (gloo on CPUs, nccl on GPUs); alone without it."""
    size = processes()
    if size == 1:
        yield World()
        return
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield World(distributed.get_rank(), size, int(os.environ.get("LOCAL_RANK", "0")),
                    int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    finally:
        distributed.destroy_process_group()


def share_weights(net: nn.Module, world: World) -> None:
    """Give every process the weights and statistics of the first."""
    if world.size > 1:
        for tensor in (*net.parameters(), *net.buffers()):
            distributed.broadcast(tensor.data, 0)


def average_gradients(parameters: Iterable[nn.Parameter], world: World) -> None:
    """Replace every gradient by the mean over the processes, in one exchange."""
    if world.size == 1:
        return
    gradients = [one.grad for one in parameters if one.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= world.size
    for gradient, part in zip(gradients, flat.split([one.numel() for one in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


class _Gathered(torch.autograd.Function):
    """The tensors of all processes, behind each other; the gradient of each comes back from all."""

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


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensors (B, ...) of all processes as one (R B, ...), in the order of their ranks.

    A loss that every process computes from it alike has, after `average_gradients`, the gradient that one process with
    all samples would find.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return tensor
    return _Gathered.apply(tensor)


def rank() -> int:
    """Return the place of this process among those that train together."""
    return distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0


def any_wants(flag: bool, world: World, device: torch.device) -> bool:
    """Say whether any process raises `flag`, so that all stop after the same step."""
    if world.size == 1:
        return flag
    raised = torch.tensor([int(flag)], device=device)
    distributed.all_reduce(raised, op=distributed.ReduceOp.MAX)
    return bool(raised.item())
