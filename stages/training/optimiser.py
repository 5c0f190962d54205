"""Build the optimiser with its parameter groups, and set learning rates by the schedule and its warm-up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from stages.training.config import LoopConfig

_POLY_POWER = 0.9
_WARMUP_START = 1e-4  # share of --lr at which the warm-up of warmup-cosine starts
_ADAM_EPSILON = 1e-8


def build_optimiser(net: nn.Module, head_parameters: Iterable[nn.Parameter],
                    config: LoopConfig) -> torch.optim.Optimizer:
    """Return the optimiser of the trainable parameters of `net`.

    The learning rate of `head_parameters` is multiplied by `config.head_lr_factor`.
    """
    head_ids = {id(parameter) for parameter in head_parameters}
    groups: dict[tuple[bool, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            is_bias = name.rpartition(".")[2] == "bias"
            without_decay = (config.decay == "matrices" and _is_exempt_from_decay(net, name, parameter)) or (
                config.decay == "but-vectors" and parameter.ndim == 1)
            groups.setdefault((id(parameter) in head_ids, is_bias, without_decay), []).append(parameter)
    parameter_groups = [_build_parameter_group(parameters, *kind, config) for kind, parameters in sorted(
        groups.items(), key=lambda group: group[0])]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameter_groups, lr=config.lr, weight_decay=config.weight_decay,
                                 eps=getattr(config, "adam_epsilon", _ADAM_EPSILON))
    return torch.optim.SGD(parameter_groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def _is_exempt_from_decay(net: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is a bias, belongs to a norm, or is one that the backbone exempts from decay."""
    return parameter.ndim < 2 or name.rpartition(".")[2] in getattr(getattr(net, "backbone", net), "no_decay_names", ())


def _build_parameter_group(parameters: list[nn.Parameter], is_head: bool, is_bias: bool, without_decay: bool,
                           config: Any) -> dict:
    factor = config.head_lr_factor if is_head else 1.0
    decay = 0.0 if without_decay else config.weight_decay
    if is_bias and config.bias_lr_factor != 1:
        factor, decay = factor * config.bias_lr_factor, 0.0
    return {"params": parameters, "lr": config.lr * factor, "factor": factor, "weight_decay": decay}


def set_learning_rates(optimiser: torch.optim.Optimizer, config: LoopConfig, step: int, steps: int) -> float:
    """Set the learning rate of every group for `step` of `steps`, and return the backbone's."""
    rate = config.lr
    if config.schedule == "poly":
        rate *= (1 - step / steps) ** _POLY_POWER
    elif config.schedule == "cosine":
        # Loshchilov and Hutter, SGDR (2017), eq. 5, without restarts.
        rate = config.lr_floor + (rate - config.lr_floor) * (1 + math.cos(math.pi * step / steps)) / 2
    elif config.schedule == "warmup-cosine":
        # The warm-up comes first, from a ten-thousandth of the rate; the cosine takes the remaining steps.
        cosine_steps = max(1, steps - config.warmup)
        cosine = (1 + math.cos(math.pi * max(0, step - config.warmup) / cosine_steps)) / 2
        rate = config.lr_floor + (rate - config.lr_floor) * cosine
    if step < config.warmup:
        progress = step / config.warmup
        rate = config.lr * (progress + (1 - progress) * _WARMUP_START) if config.schedule == "warmup-cosine" else (
            rate * (step + 1) / config.warmup)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
    return rate


def set_training_mode(net: nn.Module, freeze_bn: str) -> None:
    """Put the network in training mode, with the batch normalisation of its backbone frozen as `--freeze-bn` says.

    The batch normalisation of a head is never frozen, because its statistics start empty. Frozen too, it left a
    segmentation network that was trained on true masks at 40.8 mIoU, where 54 can be reached.
    """
    net.train()
    for module in getattr(net, "backbone", net).modules():
        if freeze_bn != "no" and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            if freeze_bn == "all":
                module.requires_grad_(False)
