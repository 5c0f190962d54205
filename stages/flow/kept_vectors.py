"""Vectors of words that are kept between runs: a text tower needs minutes for hundreds of words in 80 prompts each.

One safetensors file for each CLIP, set of templates and way of computing, below $WSSS_CACHE, else
$XDG_CACHE_HOME/wsss, else ~/.cache/wsss. It is no input and no output: what is there has the very bits that would be
computed, and a file or folder that is damaged, can't be read or can't be written is as if it were not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stages import VERSION
from stages.errors import WsssError
from stages.shards.disk import make_folder, replace_file

OFF = "off"
_MOST = 8192  # words in a file, which is 16 MB for vectors of 512; the newest stay


class KeptVectors:
    """Unit vectors of words, computed once and for all: `kept(words)` is (W, E)."""

    def __init__(self, identity: Mapping[str, object], device: torch.device, encode: Callable[[str], Tensor]) -> None:
        """`identity` says all that the vectors depend on but the machine; `encode` gives the vector (E,) of a word.

        Each word is encoded by itself, so that its bits don't depend on which others are asked for.
        """
        self._encode, self._path = encode, _path({**identity, **_machine(device)})
        self._device = device

    def __call__(self, words: Sequence[str]) -> Tensor:
        """Return the vectors (W, E) of `words`, in their order; raises what encoding a word raises."""
        known = _read(self._path)
        new = {word: self._encode(word).cpu() for word in dict.fromkeys(words) if word not in known}
        if new:
            known |= new
            _write(self._path, known)
        return torch.stack([known[word] for word in words]).to(self._device) if words else torch.zeros(0, 0)


def _machine(device: torch.device) -> dict[str, str]:
    """Return what else the last bits depend on, with the versions of the programs that compute them."""
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"wsss": VERSION, "open_clip": version("open_clip_torch"), "torch": torch.__version__,
            "device": f"{device.type} {named}", "machine": platform.machine(), "processor": _processor(),
            "threads": str(torch.get_num_threads())}


def _processor() -> str:
    """Return the processor's model as Linux tells it; empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _path(identity: Mapping[str, object]) -> Path | None:
    """Return the file of these vectors; None where none shall be kept, or there is no home."""
    told = os.environ.get("WSSS_CACHE", "")
    if told == OFF:
        return None
    try:
        folder = Path(told or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "wsss")
    except RuntimeError:
        return None
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return folder / f"words-{name[:32]}.safetensors"


def _read(path: Path | None) -> dict[str, Tensor]:
    """Return the vectors by word that a file holds; none where it is not there, or not whole."""
    try:
        if path is None or not path.is_file():
            return {}
        with safe_open(path, "pt") as file:
            told, vectors = file.metadata() or {}, file.get_tensor("vectors")
        if told.get("digest") != _digest(told.get("words", ""), vectors):
            return {}
        return dict(zip(json.loads(told["words"]), vectors, strict=True))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return {}


def _write(path: Path | None, known: Mapping[str, Tensor]) -> None:
    """Put the vectors into the file by rename; a folder that does not take it, or another who is at it, stops nothing.
    """
    if path is None:
        return
    kept = list(known)[-_MOST:]
    words, vectors = json.dumps(kept), torch.stack([known[word] for word in kept]).contiguous()
    try:
        make_folder(path.parent)
        replace_file(path, save({"vectors": vectors}, {"words": words, "digest": _digest(words, vectors)}))
    except (OSError, WsssError):
        return


def _digest(words: str, vectors: Tensor) -> str:
    return hashlib.sha256(words.encode() + str(vectors.dtype).encode() + vectors.numpy().tobytes()).hexdigest()
