"""The state of an unfinished training: `OUT.part`, a safetensors file replaced by rename.

Its head has the `sha256` of the tensors, as a net's description, and `digest`, that of all the rest of the head.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from stages.errors import BadData, CannotCreate, WsssError
from stages.nets.files import tensors_sha256
from stages.nets.finite import check_weights_finite
from stages.shards import differences, part_path
from stages.shards.disk import locked, make_folder, replace_file, temporary_path
from stages.shards.request import sha256_of
from stages.training.predictions import Predictions

_KEY = "wsss-training"


class Checkpoint:
    """Weights, optimiser state and step of a training in progress, under a lock.

    Of the processes of one training only the leading one holds the lock and writes; the others read.
    """

    def __init__(self, output: Path, request: dict[str, Any], *, leads: bool = True) -> None:
        """Lock `output` if this process leads. Raises Stopped when another one trains it, CannotCreate, IoFailed."""
        self.path = part_path(output)
        self._lock_path = _lock_path(output)
        self._request = request
        self._lock: int | None = None
        if leads:
            make_folder(output.parent)
            self._lock = locked(self._lock_path, output)

    def release(self, *, finished: bool) -> None:
        """Give the lock back; the state of a finished training goes, with what a kill left of a later one."""
        if self._lock is None:
            return
        if finished:
            self.path.unlink(missing_ok=True)
            temporary_path(self.path).unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)

    def save(self, step: int, net: nn.Module, optimiser: torch.optim.Optimizer, average: dict[str, torch.Tensor],
             scaler: dict[str, Any], seen: dict[str, torch.Tensor], history: list[dict[str, float]]) -> None:
        """Replace the state on disk; `seen` and `history` are those of `Predictions`."""
        tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
        plain: dict[str, Any] = {}
        for number, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimiser.{number}.{name}"] = value
                elif value is not None:
                    plain[f"{number}.{name}"] = value
        head = {"request": self._request, "step": step, "plain": plain, "scaler": scaler, "history": history}
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in (tensors | seen).items()}
        head["sha256"] = tensors_sha256(tensors)
        replace_file(self.path, save(tensors, {_KEY: json.dumps({**head, "digest": sha256_of(head)}, sort_keys=True)}))

    def restore(self, net: nn.Module, optimiser: torch.optim.Optimizer, average: dict[str, torch.Tensor], *,
                predictions: Predictions, discard: bool) -> tuple[int, dict[str, Any]]:
        """Load the state on disk into what is given; return (steps done, state of the scaler).

        (0, {}) when there is none. Raises BadData when it is damaged and CannotCreate when it is of other settings,
        unless it may be dropped (`discard`).
        """
        if not self.path.exists():
            return 0, {}
        try:
            tensors, head = self.read()
        except BadData:
            if discard:
                return 0, {}
            raise
        changed = differences(head["request"], self._request)
        if changed and discard:
            return 0, {}
        if changed:
            raise CannotCreate(f"holds an unfinished training with other settings ({changed})",
                               "give those settings, another -o, or --force to drop it", where=str(self.path))
        net.load_state_dict(_below(tensors, "net."))
        average.update(_below(tensors, "average."))
        predictions.restore(tensors, head.get("history", []))
        state: dict[int, dict[str, Any]] = {}
        for name, value in {**_below(tensors, "optimiser."), **head["plain"]}.items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        return head["step"], head["scaler"]

    def is_of(self, request: dict[str, Any]) -> bool:
        """Say whether the state on disk is of this request, or there is none."""
        try:
            return not self.path.exists() or not differences(self.read()[1]["request"], request)
        except BadData:
            return False

    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the tensors and the head of the state on disk.

        Raises BadData when it is none, is damaged, or holds values that are not finite.
        """
        try:
            with safe_open(self.path, "pt") as file:
                head = json.loads(file.metadata()[_KEY])
                if not {"request", "step", "plain", "scaler"} <= head.keys():
                    raise ValueError("it lacks what it was asked to be, or how far it is")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self._unusable(f"is no training state ({error})") from None
        if "digest" not in head:
            raise self._unusable("has no checksum: it was damaged, or written by an older version")
        if head.pop("digest") != sha256_of(head) or head.get("sha256") != tensors_sha256(tensors):
            raise self._unusable("damaged: its contents don't match their checksum")
        # A step can spoil the weights after its own loss was finite.
        check_weights_finite(tensors, str(self.path),
                             "remove it, and train anew with a smaller --lr or a longer --warmup")
        return tensors, head

    def _unusable(self, what: str) -> BadData:
        return BadData(what, "remove it to start anew", where=str(self.path))


def drop_leftover(output: Path, request: dict[str, Any]) -> None:
    """Remove the state of a net that is there, left by a crash before its removal; not what another process trains."""
    if not (part_path(output).exists() or _lock_path(output).exists()):
        return
    try:
        checkpoint = Checkpoint(output, request)
    except WsssError:
        return
    checkpoint.release(finished=checkpoint.is_of(request))


def _lock_path(output: Path) -> Path:
    return output.with_name(output.name + ".lock")


def _below(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
