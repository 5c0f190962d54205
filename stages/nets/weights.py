"""Weight files of other people: reading them without running code, and fitting them into a network."""

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
from stages.nets.fetch import fetch_weights
from stages.nets.finite import check_weights_finite
from stages.nets.weight_names import HEADS, bare, is_head, renamed

__all__ = ["ImportReport", "fetch_weights", "import_weights", "names_a_file", "read_state_dict",
           "weights_digest"]

# What trainings save their network under, beside an optimiser and counters; the first that holds tensors is taken.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_DEEPEST = 8
# What torch.nn.DataParallel and torch.compile put before names; the latter also inside, around a part of a network.
_PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.)+|(?<=\.)_orig_mod\.")
_ARCHIVE = b"PK\x03\x04"
COUNTER = "num_batches_tracked"
_MOST_LISTED = 4


@dataclass(frozen=True)
class ImportReport:
    """Names of the tensors that went into the net, that were dropped with a head, renamed, or not used."""

    loaded: tuple[str, ...]
    dropped_head: tuple[str, ...]
    renamed: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        line = f"{len(self.loaded)} tensors loaded, {len(self.dropped_head)} of the head dropped"
        line += _listed(self.dropped_head)
        if self.renamed:
            line += f", {len(self.renamed)} go by other names here"
        return f"{line}, {len(self.unused)} not used{_listed(tuple(sorted(self.unused)))}" if self.unused else line


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(sorted(names)[:_MOST_LISTED]) + (", ..." if len(names) > _MOST_LISTED else "")
    return f" ({shown})" if names else ""


def read_state_dict(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Return the tensors by name in a .safetensors, .pth or .pt file, on the CPU.

    Dictionaries below `state_dict`, `model_state_dict`, `model` and `net` are unwrapped, also nested ones, and the
    prefixes `module.` and `_orig_mod.` removed. Averages beside them (`model_ema`) and optimisers are not read. Pickles
    are read with `weights_only`: one that would run code is refused. The checksums of a .pth are looked at, which
    `torch.load` does not; a .safetensors of others has none. Raises MissingInput and BadData (one line), the latter
    also for values that are not finite.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingInput("no such file", "give the path of a .safetensors, .pth or .pt file", where=str(path))
    if file.suffix == ".safetensors":
        state = _read_safetensors(file)
    else:
        state = _tensors(_read_pickle(file), file)
    state = _without_prefixes(state, file)
    check_weights_finite(state, str(file))
    return state


def _without_prefixes(state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    plain: dict[str, Tensor] = {}
    for name, tensor in state.items():
        bare_name = _PREFIXES.sub("", name)
        if bare_name in plain:
            raise BadData(f"two of its tensors are named {bare_name} without the prefixes module. and _orig_mod.",
                          "save the state_dict of the network alone", where=str(file))
        plain[bare_name] = tensor
    return plain


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except Exception as error:
        raise BadData(f"no safetensors file ({error})", "fetch or copy it again", where=str(file)) from error


def _read_pickle(file: Path) -> object:
    _check_records(file)
    try:
        return torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:
        # Of a file that is no pickle at all the unpickler refuses its first letters by their number.
        refused = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"[Uu]nsupported \w+ ([^\d\s]\S*)", str(error))
        if refused:
            what = f"refused, because it holds {refused[1]}, not only tensors"
            raise BadData(what, "save its state_dict alone, best as .safetensors", where=str(file)) from error
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        told = "" if first.startswith("Weights only load failed") else f" ({first[:120]})"
        raise BadData(f"no weight file that can be read{told}", "give a .safetensors, or a .pth or .pt of tensors",
                      where=str(file)) from error


def _check_records(file: Path) -> None:
    """Raise BadData for an archive without a readable directory, or with a record that changed since it was written.

    One in which no record with bytes fits was written without checksums (`torch.serialization.set_crc32_options`).
    """
    with file.open("rb") as opened:
        # What `torch.load` goes by: a pickle without an archive may hold anything in its last bytes.
        if opened.read(len(_ARCHIVE)) != _ARCHIVE:
            return
    try:
        with zipfile.ZipFile(file) as archive:
            fits = {record.filename: _fits(archive, record) for record in archive.infolist()
                    if record.file_size}
    except Exception as error:
        raise BadData("is damaged: its directory can't be read", "fetch or copy it again", where=str(file)) from error
    if any(fits.values()) and not all(fits.values()):
        changed = next(name for name, sound in fits.items() if not sound)
        what = f"is damaged: the checksum of {changed!r} does not fit"
        raise BadData(what, "fetch or copy it again", where=str(file))


def _fits(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    """Return whether a record has the checksum that the directory says; a megabyte of it is in memory at a time."""
    try:
        with archive.open(record) as member:
            while member.read(1 << 20):
                pass
    # Of a damaged record the local header, the packing or the numbers may be wrong, and each raises its own.
    except Exception:
        return False
    return True


def _tensors(content: object, file: Path) -> dict[str, Tensor]:
    if tensors := _unwrap(content):
        return tensors
    entries = ", ".join(map(str, list(content)[:6])) if isinstance(content, dict) else type(content).__name__
    raise BadData(f"it holds no tensors by name (but {entries or 'an empty dictionary'})",
                  f"save the network's state_dict, by itself or below {', '.join(WRAPPERS)}", where=str(file))


def _unwrap(content: object, depth: int = 0) -> dict[str, Tensor]:
    """Return the tensors by name of a dictionary, or of the first wrapper in it that holds any; else an empty one."""
    # A pickled dictionary may hold itself.
    if not isinstance(content, dict) or depth > _DEEPEST:
        return {}
    for wrapper in WRAPPERS:
        if tensors := _unwrap(content.get(wrapper), depth + 1):
            return tensors
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


def names_a_file(weights: str) -> bool:
    """Say whether `--weights` means a file, there or not, rather than a tag."""
    return Path(weights).is_file() or "/" in weights or weights.endswith((".pth", ".pt", ".safetensors"))


def weights_digest(weights: str | None) -> dict[str, str]:
    """Return the `weights` entry of the provenance: a file's sha256, or the tag itself."""
    if not weights:
        return {}
    place = Path(weights)
    if not place.is_file():
        return {"weights": weights}
    return {"weights": hashlib.sha256(place.read_bytes()).hexdigest()}


def import_weights(
    net: nn.Module, state: dict[str, Tensor], *, head_keys: tuple[str, ...] | None = None, where: str = ""
) -> ImportReport:
    """Put the weights `state` into `net` and tell what was done; the net is left as it was on any error.

    `head_keys` are the net's layers that may stay as they are (default: those that the net itself names):
    their weights are taken where the shape is the same, dropped and counted otherwise. Everything else must
    be there in the same shape, after the net's own `adapted(state)` where it has one. Raises BadData naming the first
    key and both shapes; `where` is the file.
    """
    heads = getattr(net, "head_keys", ()) if head_keys is None else head_keys
    try:
        state = net.adapted(state) if hasattr(net, "adapted") else state
    except BadData as error:
        raise BadData(error.what, error.do, where=where) from error
    target = net.state_dict()
    ours = {bare(key): key for key in target}
    weights, original, unused = renamed(state)
    if repeated := sorted(set(state) - {*original.values(), *unused}):
        raise BadData(f"{repeated[0]} is there a second time under another name", "save the network's state_dict alone",
                      where=where)
    loaded, dropped = {}, []
    for name, tensor in weights.items():
        key = ours.get(bare(name))
        if key is not None and target[key].shape == tensor.shape:
            _check_numbers(original[name], tensor, target[key], where)
            loaded[key] = name
        elif is_head(bare(name), (*heads, *HEADS)) and (key is None or is_head(bare(key), heads)):
            dropped.append(original[name])
        elif key is None and not _belongs(bare(name), ours):
            unused.append(original[name])
        else:
            raise _mismatch(original[name], tensor, None if key is None else target[key], where)
    dropped += [original[name] for name in _drop_partial_layers(loaded, target, heads)]
    _check_complete(target, loaded, heads, where)
    net.load_state_dict({key: weights[name] for key, name in loaded.items()}, strict=False)
    changed = tuple(key for key, name in loaded.items() if bare(key) != bare(original[name]))
    return ImportReport(tuple(loaded), tuple(dropped), changed, tuple(unused))


def _check_numbers(name: str, tensor: Tensor, target: Tensor, where: str) -> None:
    """Raise BadData for whole or complex numbers in the place of real ones: quantised weights, say."""
    if target.is_floating_point() and not tensor.is_floating_point():
        raise BadData(f"{name} holds {str(tensor.dtype).removeprefix('torch.')} numbers where the network has "
                      "floating-point ones", "give weights that are not quantised", where=where)


def _drop_partial_layers(loaded: dict[str, str], target: dict[str, Tensor], heads: tuple[str, ...]) -> list[str]:
    """Take the rest of a head's layer out of `loaded` where one of its tensors is not loaded; return the rest's names.

    Half a layer of the file and half a new one are neither of the two.
    """
    layers = {key: bare(key).rpartition(".")[0] for key in target if is_head(bare(key), heads)}
    missing = {layer for key, layer in layers.items() if key not in loaded and not key.endswith(COUNTER)} - {""}
    return [loaded.pop(key) for key in list(loaded) if layers.get(key) in missing]


def _belongs(name: str, ours: dict[str, str]) -> bool:
    """Return whether a key that the net lacks lies in one of its layers: then the file is of another network."""
    layer = name.split(".")[0] + "."
    return not name.endswith(COUNTER) and any(key.startswith(layer) for key in ours)


def _check_complete(target: dict[str, Tensor], loaded: dict[str, str], heads: tuple[str, ...], where: str) -> None:
    for key, tensor in target.items():
        if key not in loaded and not is_head(bare(key), heads) and not key.endswith(COUNTER):
            raise _mismatch(key, None, tensor, where)


def _mismatch(key: str, found: Tensor | None, wanted: Tensor | None, where: str) -> BadData:
    there = "not there" if found is None else f"of shape {tuple(found.shape)}"
    here = "has no such weight" if wanted is None else f"has shape {tuple(wanted.shape)}"
    return BadData(
        f"weights of another network: {key} is {there}, the network {here}", "give --net and --weights that fit",
        where=where,
    )  # fmt: skip
