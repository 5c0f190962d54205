"""Caches text embeddings on disk between runs of `segment`.

A text tower needs minutes for hundreds of words in 80 prompts each.

One safetensors file for each CLIP, set of templates and way of computing, in $WSSS_CACHE, else $XDG_CACHE_HOME/wsss,
else ~/.cache/wsss. The cache is neither an input nor an output: a cached vector has exactly the bits that would be
computed, and a file or folder that is damaged, unreadable or not writable is ignored.
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

CACHE_OFF = "off"
_MAX_WORDS = 8192  # in a file, which is 16 MB for vectors of 512; the newest words stay


class CachedWordVectors:
    """Computes unit vectors of words and caches them: `cached(words)` returns (W, E)."""

    def __init__(self, identity: Mapping[str, object], device: torch.device, encode: Callable[[str], Tensor]) -> None:
        """`identity` is all that the vectors depend on except the machine; `encode` returns the vector (E,) of a word.

        Each word is encoded by itself, so that its bits do not depend on which others are requested.
        """
        self._encode, self._path = encode, _cache_path({**identity, **_describe_machine(device)})
        self._device = device

    def __call__(self, words: Sequence[str]) -> Tensor:
        """Return the vectors (W, E) of `words` in their order; raises what encoding a word raises."""
        vectors = _read_vectors(self._path)
        new_vectors = {word: self._encode(word).cpu() for word in dict.fromkeys(words) if word not in vectors}
        if new_vectors:
            vectors |= new_vectors
            _write_vectors(self._path, vectors)
        return torch.stack([vectors[word] for word in words]).to(self._device) if words else torch.zeros(0, 0)


def _describe_machine(device: torch.device) -> dict[str, str]:
    """Return what else the last bits depend on: the hardware and the versions of the programs."""
    model = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return {"wsss": VERSION, "open_clip": version("open_clip_torch"), "torch": torch.__version__,
            "device": f"{device.type} {model}", "machine": platform.machine(), "processor": _read_processor_name(),
            "threads": str(torch.get_num_threads())}


def _read_processor_name() -> str:
    """Return the processor's model as Linux reports it; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _cache_path(identity: Mapping[str, object]) -> Path | None:
    """Return the cache file of these vectors; None if the cache is off or there is no home folder."""
    variable = os.environ.get("WSSS_CACHE", "")
    if variable == CACHE_OFF:
        return None
    try:
        folder = Path(variable or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "wsss")
    except RuntimeError:
        return None
    name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return folder / f"words-{name[:32]}.safetensors"


def _read_vectors(path: Path | None) -> dict[str, Tensor]:
    """Return the vectors by word in a cache file; none if it does not exist or is damaged."""
    try:
        if path is None or not path.is_file():
            return {}
        with safe_open(path, "pt") as file:
            metadata, vectors = file.metadata() or {}, file.get_tensor("vectors")
        if metadata.get("digest") != _compute_digest(metadata.get("words", ""), vectors):
            return {}
        return dict(zip(json.loads(metadata["words"]), vectors, strict=True))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError):
        return {}


def _write_vectors(path: Path | None, vectors: Mapping[str, Tensor]) -> None:
    """Replace the cache file atomically; ignore a folder that is not writable and a file that is being written."""
    if path is None:
        return
    newest = list(vectors)[-_MAX_WORDS:]
    words, stacked = json.dumps(newest), torch.stack([vectors[word] for word in newest]).contiguous()
    try:
        make_folder(path.parent)
        replace_file(path, save({"vectors": stacked}, {"words": words, "digest": _compute_digest(words, stacked)}))
    except (OSError, WsssError):
        return


def _compute_digest(words: str, vectors: Tensor) -> str:
    return hashlib.sha256(words.encode() + str(vectors.dtype).encode() + vectors.numpy().tobytes()).hexdigest()
