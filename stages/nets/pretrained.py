"""Download pretrained weights by tag through timm, torchvision and open_clip."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import Tensor, hub

from stages.errors import Unavailable, UsageError
from stages.nets.registry import resolve_backbone_name
from stages.nets.torchvision_import import import_torchvision_models
from stages.nets.weight_checks import check_weights_finite

# Networks of ours whose initial weights come from another library.
PRETRAINED_SOURCES = {"resnet50_irn": ("torchvision", "resnet50")}
CONNECT_TIMEOUT = 5.0  # seconds
# The suffix of open_clip's names for the variants with OpenAI's faster GELU.
QUICKGELU_SUFFIX = "-quickgelu"


def fetch_weights(name: str, tag: str) -> dict[str, Tensor]:
    """Return the weights of network `name` with the library's `tag`, from the library's cache or the internet.

    Raises UsageError listing the tags when there is no such tag, BadData for weights that are not finite, and
    Unavailable naming the file to copy when the weights cannot be downloaded. Offline this takes only seconds, since
    the connection is tried once before the library tries it.
    """
    source, short = resolve_backbone_name(name)
    source, short = PRETRAINED_SOURCES.get(short, (source, short)) if source == "wsss" else (source, short)
    loaders = {"torchvision": _fetch_from_torchvision, "timm": _fetch_from_timm}
    if source in loaders:
        state = loaders[source](short, tag)
        check_weights_finite(state, f"{name} {tag}",
                             f"Remove the file from the cache of {source} and run the same command again")
        return state
    raise UsageError(f"--weights {tag}: no file has this name, and {name} has no tags", "Use --weights FILE")


def _fetch_from_torchvision(name: str, tag: str) -> dict[str, Tensor]:
    models = import_torchvision_models()

    weights_by_tag = models.get_model_weights(name).__members__
    if tag not in weights_by_tag:
        raise _build_unknown_tag_error(tag, f"torchvision's {name}", list(weights_by_tag))
    weights = weights_by_tag[tag]
    file = Path(urlsplit(weights.url).path).name
    if not (Path(hub.get_dir()) / "checkpoints" / file).is_file():
        _check_reachable(weights.url, f"{name} {tag}", weights.url)
    return _run_loader(
        lambda: weights.get_state_dict(progress=False, map_location="cpu", weights_only=True),
        f"{name} {tag}", weights.url)


def _fetch_from_timm(name: str, tag: str) -> dict[str, Tensor]:
    import timm
    from huggingface_hub import try_to_load_from_cache

    architecture = name.split(".")[0]
    tags = [model.partition(".")[2] for model in timm.list_pretrained(f"{architecture}.*")]
    if tag not in tags:
        raise _build_unknown_tag_error(tag, f"timm's {architecture}", tags)
    model_name = f"{architecture}.{tag}"
    config = timm.get_pretrained_cfg(model_name)
    repository, file = config.hf_hub_id, "model.safetensors"
    source = f"{repository}/{file}" if repository else str(config.url)
    is_cached = repository and isinstance(try_to_load_from_cache(repository, file), str)
    if not is_cached:
        _check_reachable("https://huggingface.co" if repository else config.url, model_name, source)
    return _run_loader(lambda: timm.create_model(model_name, pretrained=True, num_classes=0).state_dict(),
                       model_name, source)


def fetch_clip_weights(name: str, tag: str) -> tuple[Path, dict[str, Any]]:
    """Return the file of weights with open_clip's `tag` for model `name`, and open_clip's settings for this tag.

    The file comes from open_clip's cache or the internet. Raises UsageError listing the tags, Unavailable naming the
    file to copy.
    """
    import open_clip
    from huggingface_hub import try_to_load_from_cache
    from open_clip import pretrained

    tag_config = pretrained.get_pretrained_cfg(name, tag)
    if not tag_config:
        raise _build_unknown_tag_error(tag, f"open_clip's {name}", open_clip.list_pretrained_tags_by_model(name))
    url, repository = tag_config.get("url", ""), tag_config.get("hf_hub", "").rstrip("/")
    file = "open_clip_model.safetensors" if repository else Path(urlsplit(url).path).name
    is_cached = repository and isinstance(try_to_load_from_cache(repository, file), str)
    source = f"{repository}/{file}" if repository else url
    options = f"{_get_clip_option(name, tag_config)}--weights FILE"
    if not is_cached and not (Path("~/.cache/clip").expanduser() / file).is_file():
        _check_reachable("https://huggingface.co" if repository else url, f"{name} {tag}", source, options)
    path = _run_loader(lambda: pretrained.download_pretrained(tag_config), f"{name} {tag}", source, options)
    return Path(path), tag_config


def _get_clip_option(name: str, tag_config: dict[str, Any]) -> str:
    """Return the --clip option needed with a file of these weights: unlike a tag, a file does not show its GELU."""
    if not tag_config.get("quick_gelu") or name.endswith(QUICKGELU_SUFFIX):
        return ""
    return f"--clip {name}{QUICKGELU_SUFFIX} "


def _build_unknown_tag_error(tag: str, model: str, tags: list[str]) -> UsageError:
    """Build the error for --weights that is neither a file nor one of the `tags` of `model`."""
    return UsageError(f"--weights {tag}: no file has this name, and {model} has no such tag",
                      f"Use --weights FILE or one of the tags {', '.join(tags)}" if tags else "Use --weights FILE")


def _check_reachable(url: str, weights: str, source: str, options: str = "--weights FILE") -> None:
    """Raise Unavailable unless the host of `url`, or the proxy to it, accepts a connection within `CONNECT_TIMEOUT`."""
    address = urlsplit(getproxies().get("https") or url)
    try:
        socket.create_connection((address.hostname or "", address.port or 443), CONNECT_TIMEOUT).close()
    except OSError as error:
        raise _build_download_error(weights, source, options, error) from error


def _run_loader(load: Callable[[], Any], weights: str, source: str, options: str = "--weights FILE") -> Any:
    """Return the result of a library's loader. Raises Unavailable when it fails."""
    try:
        # The loaders print about downloads on standard output, which is reserved for data.
        with contextlib.redirect_stdout(io.StringIO()):
            return load()
    except Exception as error:
        raise _build_download_error(weights, source, options, error) from error


def _build_download_error(weights: str, source: str, options: str, error: Exception) -> Unavailable:
    """Build the error for weights that cannot be downloaded; `options` are those needed with a copy of `source`."""
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return Unavailable(f"the weights {weights} cannot be downloaded ({reason[0][:100]})",
                       f"Download {source} on another machine, copy it here and use {options}")
