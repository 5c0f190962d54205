"""Save and restore the checkpoint of an unfinished training: `OUT.part`, a safetensors file replaced by rename.

Its header has the `sha256` of the tensors, as a network's description has, and `digest`, the hash of the rest of the
header.
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
from stages.nets.net_files import hash_tensors
from stages.nets.weight_checks import check_weights_finite
from stages.shards import describe_differences, unfinished_path
from stages.shards.disk import lock_file, make_folder, replace_file, temporary_path
from stages.shards.request import hash_json
from stages.training.epoch_statistics import EpochStatistics

_KEY = "wsss-training"


class Checkpoint:
    """Weights, optimiser state and step of a training in progress, protected by a lock file.

    Of the processes of one training only the main process holds the lock and writes; the others read.
    """

    def __init__(self, output: Path, request: dict[str, Any], *, is_main_process: bool = True) -> None:
        """Lock `output` in the main process.

        Raises Stopped when another training holds the lock, CannotCreate or IoFailed when it can't be created.
        """
        self.path = unfinished_path(output)
        self._lock_path = _build_lock_path(output)
        self._request = request
        self._lock: int | None = None
        if is_main_process:
            make_folder(output.parent)
            self._lock = lock_file(self._lock_path, output)

    def release(self, *, finished: bool) -> None:
        """Release the lock; remove the checkpoint of a finished training, and the .tmp file of a save that was killed.
        """
        if self._lock is None:
            return
        if finished:
            self.path.unlink(missing_ok=True)
            temporary_path(self.path).unlink(missing_ok=True)
        self._lock_path.unlink(missing_ok=True)
        os.close(self._lock)

    def save(self, step: int, net: nn.Module, optimiser: torch.optim.Optimizer, average: dict[str, torch.Tensor],
             scaler: dict[str, Any], statistics: dict[str, torch.Tensor], history: list[dict[str, float]]) -> None:
        """Replace the checkpoint on disk; `statistics` and `history` are those of `EpochStatistics`."""
        tensors = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
        plain: dict[str, Any] = {}
        for number, state in optimiser.state_dict()["state"].items():
            for name, value in state.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimiser.{number}.{name}"] = value
                elif value is not None:
                    plain[f"{number}.{name}"] = value
        header = {"request": self._request, "step": step, "plain": plain, "scaler": scaler, "history": history}
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in (tensors | statistics).items()}
        header["sha256"] = hash_tensors(tensors)
        metadata = {_KEY: json.dumps({**header, "digest": hash_json(header)}, sort_keys=True)}
        replace_file(self.path, save(tensors, metadata))

    def restore(self, net: nn.Module, optimiser: torch.optim.Optimizer, average: dict[str, torch.Tensor], *,
                statistics: EpochStatistics, discard_unusable: bool) -> tuple[int, dict[str, Any]]:
        """Load the checkpoint on disk into the arguments; return (steps done, state of the gradient scaler).

        Returns (0, {}) when there is none. Raises BadData when it is damaged and CannotCreate when it has other
        settings, unless `discard_unusable`: then it counts as none.
        """
        if not self.path.exists():
            return 0, {}
        try:
            tensors, header = self.read()
        except BadData:
            if discard_unusable:
                return 0, {}
            raise
        differences = describe_differences(header["request"], self._request)
        if differences and discard_unusable:
            return 0, {}
        if differences:
            raise CannotCreate(f"an unfinished training with different settings is stored here ({differences})",
                               "Use --force to discard it, choose another -o, or finish it with its own settings",
                               where=str(self.path))
        net.load_state_dict(_strip_prefix(tensors, "net."))
        average.update(_strip_prefix(tensors, "average."))
        statistics.load_state(tensors, header.get("history", []))
        state: dict[int, dict[str, Any]] = {}
        for name, value in {**_strip_prefix(tensors, "optimiser."), **header["plain"]}.items():
            number, _, key = name.partition(".")
            state.setdefault(int(number), {})[key] = value
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
        return header["step"], header["scaler"]

    def is_for_request(self, request: dict[str, Any]) -> bool:
        """Return whether the checkpoint on disk belongs to this request, or there is none."""
        try:
            return not self.path.exists() or not describe_differences(self.read()[1]["request"], request)
        except BadData:
            return False

    def read(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the tensors and the header of the checkpoint on disk.

        Raises BadData when it is not a checkpoint, is damaged, or holds values that are not finite.
        """
        try:
            with safe_open(self.path, "pt") as file:
                header = json.loads(file.metadata()[_KEY])
                if not {"request", "step", "plain", "scaler"} <= header.keys():
                    raise ValueError("its header lacks the request, the step or the optimiser state")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise self._build_error(f"the file is not a training checkpoint ({error})") from None
        if "digest" not in header:
            raise self._build_error("the checkpoint has no checksum: it is damaged, or an older version wrote it")
        if header.pop("digest") != hash_json(header) or header.get("sha256") != hash_tensors(tensors):
            raise self._build_error("the checkpoint is damaged: its contents do not match its checksum")
        # A step can make the weights infinite or NaN after its own loss was finite.
        check_weights_finite(tensors, str(self.path),
                             "Remove the file, and train again with a smaller --lr or a longer --warmup")
        return tensors, header

    def _build_error(self, message: str) -> BadData:
        return BadData(message, "Remove the file, or use --force, to train from the start", where=str(self.path))


def remove_leftover_checkpoint(output: Path, request: dict[str, Any]) -> None:
    """Remove the checkpoint that a crash left beside a finished network, unless another process is training there."""
    if not (unfinished_path(output).exists() or _build_lock_path(output).exists()):
        return
    try:
        checkpoint = Checkpoint(output, request)
    except WsssError:
        return
    checkpoint.release(finished=checkpoint.is_for_request(request))


def _build_lock_path(output: Path) -> Path:
    return output.with_name(output.name + ".lock")


def _strip_prefix(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return the entries whose name starts with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
