"""The optimiser with its groups of rates, and the schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from stages.training.config import LoopConfig

_POWER = 0.9
_FIRST_SHARE = 1e-4
_EPSILON = 1e-8


def build_optimiser(net: nn.Module, head: Iterable[nn.Parameter], config: LoopConfig) -> torch.optim.Optimizer:
    """Return the optimiser of the trainable parameters of `net`; those of `head` learn faster."""
    heads = {id(parameter) for parameter in head}
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            is_bias = name.rpartition(".")[2] == "bias"
            spared = (config.decay == "matrices" and _is_spared(net, name, parameter)) or (
                config.decay == "but-vectors" and parameter.ndim == 1)
            groups.setdefault((id(parameter) in heads, is_bias, spared), []).append(parameter)
    described = [_group(members, *kind, config) for kind, members in sorted(
        groups.items(), key=lambda group: group[0])]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(described, lr=config.lr, weight_decay=config.weight_decay,
                                 eps=getattr(config, "adam_epsilon", _EPSILON))
    return torch.optim.SGD(described, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def _is_spared(net: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a bias, of a norm, or one that the backbone says is never decayed."""
    return parameter.ndim < 2 or name.rpartition(".")[2] in getattr(getattr(net, "backbone", net), "undecayed", ())


def _group(members: list[nn.Parameter], is_head: bool, is_bias: bool, spared: bool, config: Any) -> dict:
    factor = config.head_lr_factor if is_head else 1.0
    decay = 0.0 if spared else config.weight_decay
    if is_bias and config.bias_lr_factor != 1:
        factor, decay = factor * config.bias_lr_factor, 0.0
    return {"params": members, "lr": config.lr * factor, "factor": factor, "weight_decay": decay}


def set_rate(optimiser: torch.optim.Optimizer, config: LoopConfig, step: int, steps: int) -> float:
    """Set the rates for `step` of `steps`, and return the backbone's."""
    rate = config.lr
    if config.schedule == "poly":
        rate *= (1 - step / steps) ** _POWER
    elif config.schedule == "cosine":
        # Loshchilov and Hutter, SGDR (2017), eq. 5, without restarts.
        rate = config.lr_floor + (rate - config.lr_floor) * (1 + math.cos(math.pi * step / steps)) / 2
    elif config.schedule == "warmup-cosine":
        # The rise comes first, from a ten-thousandth of the rate, and the half wave takes the steps that are left.
        rest = max(1, steps - config.warmup)
        wave = (1 + math.cos(math.pi * max(0, step - config.warmup) / rest)) / 2
        rate = config.lr_floor + (rate - config.lr_floor) * wave
    if step < config.warmup:
        gone = step / config.warmup
        rate = config.lr * (gone + (1 - gone) * _FIRST_SHARE) if config.schedule == "warmup-cosine" else (
            rate * (step + 1) / config.warmup)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def hold_batch_norm(net: nn.Module, mode: str) -> None:
    """Put the net in training mode with the batch normalisation of its backbone held as `freeze_bn` says.

    A head's starts anew, with statistics of nothing: it always learns. Held too, it left a segmentation network
    on true masks at 40.8 mIoU where 54 is known to be within reach.
    """
    net.train()
    for module in getattr(net, "backbone", net).modules():
        if mode != "no" and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            if mode == "all":
                module.requires_grad_(False)
