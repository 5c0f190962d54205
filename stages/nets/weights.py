"""Read weight files of other projects without running code, and import them into a network."""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.errors import BadData, MissingInput
from stages.nets.pretrained import fetch_weights
from stages.nets.weight_checks import check_weights_finite
from stages.nets.weight_names import HEAD_LAYERS, is_head_key, strip_backbone_prefix, translate_weight_names

__all__ = [
    "ImportReport",
    "compute_weights_digest",
    "fetch_weights",
    "import_weights",
    "is_weights_path",
    "read_state_dict",
    "read_torch_file",
]

# Keys of the network in a training checkpoint, next to optimiser and counters; the first with tensors is used.
WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "net")
_MAX_DEPTH = 8
# Prefixes added by torch.nn.DataParallel and torch.compile; the latter also within names, if it compiled a part only.
_WRAPPER_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")
_ZIP_MAGIC = b"PK\x03\x04"
NUM_BATCHES_TRACKED = "num_batches_tracked"
_MAX_LISTED = 4


@dataclass(frozen=True)
class ImportReport:
    """Names of the tensors that were loaded, dropped with a head, loaded under other names, or not used."""

    loaded: tuple[str, ...]
    dropped_head: tuple[str, ...]
    renamed: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        line = f"{len(self.loaded)} tensors loaded, {len(self.dropped_head)} of the head dropped"
        line += _format_names(self.dropped_head)
        if self.renamed:
            line += f", {len(self.renamed)} renamed"
        return f"{line}, {len(self.unused)} not used{_format_names(self.unused)}" if self.unused else line


def _format_names(names: tuple[str, ...]) -> str:
    shown = ", ".join(sorted(names)[:_MAX_LISTED]) + (", ..." if len(names) > _MAX_LISTED else "")
    return f" ({shown})" if names else ""


def read_state_dict(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors by name in a .safetensors, .pth or .pt file, on the CPU.

    Dictionaries under `state_dict`, `model_state_dict`, `model` and `net` are unwrapped, also nested ones, and the
    prefixes `module.` and `_orig_mod.` removed. Weight averages (`model_ema`) and optimisers are not read. Pickles
    are read with `weights_only`, which rejects those that would run code. The checksums of a .pth are verified, which
    `torch.load` does not do; a .safetensors of another project has none. Raises MissingInput, and BadData, also for
    values that are not finite.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingInput("no such file", "Give the path of a .safetensors, .pth or .pt file", where=str(path))
    if file.suffix == ".safetensors":
        state = _read_safetensors(file)
    else:
        state = _extract_tensors(read_torch_file(file), file)
    state = _strip_wrapper_prefixes(state, file)
    check_weights_finite(state, str(file))
    return state


def _strip_wrapper_prefixes(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for name, tensor in state.items():
        bare_name = _WRAPPER_PREFIXES.sub("", name)
        if bare_name in stripped:
            raise BadData(f"two of its tensors are named {bare_name} without the prefixes module. and _orig_mod.",
                          "Save only the state_dict of the network", where=str(file))
        stripped[bare_name] = tensor
    return stripped


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except Exception as error:
        raise BadData(f"this is not a safetensors file ({error})", "Download or copy it again",
                      where=str(file)) from error


def read_torch_file(file: Path) -> object:
    """Return what a .pt or .pth file holds, without running code in it. Raises BadData."""
    _check_records(file)
    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:
        # For a file that is no pickle at all the unpickler reports a number (its first byte) instead of a name.
        unsafe = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"[Uu]nsupported \w+ ([^\d\s]\S*)", str(error))
        if unsafe:
            message = f"the file is not read, because it holds {unsafe[1]}, not only tensors"
            remedy = "Save only the state_dict of the network, preferably as .safetensors"
            raise BadData(message, remedy, where=str(file)) from error
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = "" if first_line.startswith("Weights only load failed") else f" ({first_line[:120]})"
        raise BadData(f"this is not a readable weight file{reason}",
                      "Give a .safetensors file, or a .pth or .pt file of tensors", where=str(file)) from error


def _check_records(file: Path) -> None:
    """Raise BadData for a zip archive without a readable directory, or with a record whose checksum is wrong.

    If no record matches its checksum, the file was written without them (`torch.serialization.set_crc32_options`).
    """
    with file.open("rb") as stream:
        # As `torch.load` does: the last bytes of a plain pickle may look like the directory of a zip archive.
        if stream.read(len(_ZIP_MAGIC)) != _ZIP_MAGIC:
            return
    try:
        with zipfile.ZipFile(file) as archive:
            is_intact = {record.filename: _has_valid_checksum(archive, record) for record in archive.infolist()
                         if record.file_size}
    except Exception as error:
        raise BadData("the file is damaged: its zip directory cannot be read", "Download or copy it again",
                      where=str(file)) from error
    if any(is_intact.values()) and not all(is_intact.values()):
        damaged = next(name for name, intact in is_intact.items() if not intact)
        raise BadData(f"the file is damaged: the checksum of its record {damaged!r} is wrong",
                      "Download or copy it again", where=str(file))


def _has_valid_checksum(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    """Return whether a record matches the checksum in the directory; it is read one megabyte at a time."""
    try:
        with archive.open(record) as member:
            while member.read(1 << 20):
                pass
    # A damaged local header, compression stream or content each raise an exception of another type.
    except Exception:
        return False
    return True


def _extract_tensors(content: object, file: Path) -> dict[str, Tensor]:
    if tensors := _unwrap_state_dict(content):
        return tensors
    entries = ", ".join(map(str, list(content)[:6])) if isinstance(content, dict) else type(content).__name__
    raise BadData(f"it holds no tensors by name (but {entries or 'an empty dictionary'})",
                  f"Save the network's state_dict, by itself or under one of the keys {', '.join(WRAPPER_KEYS)}",
                  where=str(file))


def _unwrap_state_dict(content: object, depth: int = 0) -> dict[str, Tensor]:
    """Return the tensors by name of a dictionary, or of the first wrapper key in it that holds any; {} if none do."""
    # A pickled dictionary may contain itself.
    if not isinstance(content, dict) or depth > _MAX_DEPTH:
        return {}
    for key in WRAPPER_KEYS:
        if tensors := _unwrap_state_dict(content.get(key), depth + 1):
            return tensors
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def is_weights_path(weights: str) -> bool:
    """Return whether `--weights` names a file, existing or not, rather than a tag."""
    return Path(weights).is_file() or "/" in weights or weights.endswith((".pth", ".pt", ".safetensors"))


def compute_weights_digest(weights: str | None) -> dict[str, str]:
    """Return the `weights` entry of the provenance: a file's sha256, or the tag itself."""
    if not weights:
        return {}
    file = Path(weights)
    if not file.is_file():
        return {"weights": weights}
    return {"weights": hashlib.sha256(file.read_bytes()).hexdigest()}


def import_weights(
    net: nn.Module, state: dict[str, Tensor], *, head_keys: tuple[str, ...] | None = None, where: str = ""
) -> ImportReport:
    """Load the weights `state` into `net` and report what was done; on any error the network is unchanged.

    `head_keys` are the layers of the network that may keep their fresh weights (default: its own `head_keys`): their
    weights are loaded if the shapes agree, else dropped and counted. All other weights must be present in the same
    shape, after the network's own `adapt_state_dict(state)` if it has one. Raises BadData naming the first key that
    differs and both shapes; `where` is the file.
    """
    heads = getattr(net, "head_keys", ()) if head_keys is None else head_keys
    try:
        state = net.adapt_state_dict(state) if hasattr(net, "adapt_state_dict") else state
    except BadData as error:
        raise BadData(error.message, error.remedy, where=where) from error
    target = net.state_dict()
    target_keys = {strip_backbone_prefix(key): key for key in target}
    weights, original_names, unused = translate_weight_names(state)
    if duplicates := sorted(set(state) - {*original_names.values(), *unused}):
        raise BadData(f"{duplicates[0]} is present a second time under another name",
                      "Save only the state_dict of the network", where=where)
    loaded, dropped = {}, []
    for name, tensor in weights.items():
        bare_name = strip_backbone_prefix(name)
        key = target_keys.get(bare_name)
        if key is not None and target[key].shape == tensor.shape:
            _check_dtype(original_names[name], tensor, target[key], where)
            loaded[key] = name
        elif is_head_key(bare_name, (*heads, *HEAD_LAYERS)) and (key is None or _is_in_head(key, heads)):
            dropped.append(original_names[name])
        elif key is None and not _is_in_target_layer(bare_name, target_keys):
            unused.append(original_names[name])
        else:
            raise _build_mismatch_error(original_names[name], tensor, None if key is None else target[key], where)
    dropped += [original_names[name] for name in _drop_partial_layers(loaded, target, heads)]
    _check_complete(target, loaded, heads, where)
    net.load_state_dict({key: weights[name] for key, name in loaded.items()}, strict=False)
    renamed = tuple(key for key, name in loaded.items()
                    if strip_backbone_prefix(key) != strip_backbone_prefix(original_names[name]))
    return ImportReport(tuple(loaded), tuple(dropped), renamed, tuple(unused))


def _is_in_head(key: str, heads: tuple[str, ...]) -> bool:
    return is_head_key(strip_backbone_prefix(key), heads)


def _check_dtype(name: str, tensor: Tensor, target: Tensor, where: str) -> None:
    """Raise BadData for integers or complex numbers in place of floating-point ones, such as quantised weights."""
    if target.is_floating_point() and not tensor.is_floating_point():
        raise BadData(f"{name} holds {str(tensor.dtype).removeprefix('torch.')} numbers where the network has "
                      "floating-point ones", "Give weights that are not quantised", where=where)


def _drop_partial_layers(loaded: dict[str, str], target: dict[str, Tensor], heads: tuple[str, ...]) -> list[str]:
    """Remove from `loaded` all head layers of which a tensor is missing, and return the names of the removed tensors.

    A layer must come from the file as a whole or not at all.
    """
    layers = {key: strip_backbone_prefix(key).rpartition(".")[0] for key in target if _is_in_head(key, heads)}
    incomplete = {layer for key, layer in layers.items()
                  if layer and key not in loaded and not key.endswith(NUM_BATCHES_TRACKED)}
    return [loaded.pop(key) for key in list(loaded) if layers.get(key) in incomplete]


def _is_in_target_layer(name: str, target_keys: dict[str, str]) -> bool:
    """Return whether a key that the network lacks lies in one of its layers: the file is of another network then."""
    layer = name.split(".")[0] + "."
    return not name.endswith(NUM_BATCHES_TRACKED) and any(key.startswith(layer) for key in target_keys)


def _check_complete(target: dict[str, Tensor], loaded: dict[str, str], heads: tuple[str, ...], where: str) -> None:
    for key, tensor in target.items():
        if key not in loaded and not _is_in_head(key, heads) and not key.endswith(NUM_BATCHES_TRACKED):
            raise _build_mismatch_error(key, None, tensor, where)


def _build_mismatch_error(key: str, tensor: Tensor | None, target: Tensor | None, where: str) -> BadData:
    in_file = "missing in the file" if tensor is None else f"of shape {tuple(tensor.shape)} in the file"
    in_network = "has no such weight" if target is None else f"has shape {tuple(target.shape)}"
    return BadData(
        f"the weights are of another network: {key} is {in_file}, but the network {in_network}",
        "Give --weights of the network that --net names, or another --net", where=where,
    )  # fmt: skip
