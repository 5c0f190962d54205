"""Weights by tag, through the loaders of timm and torchvision."""

from __future__ import annotations

import contextlib
import io
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from torch import Tensor, hub

from stages.errors import Unavailable, UsageError
from stages.nets.finite import check_weights_finite
from stages.nets.registry import resolve

# Our networks whose initial weights are another library's.
INITIAL = {"resnet50_irn": ("torchvision", "resnet50")}
CONNECT_SECONDS = 5.0
# What open_clip adds to the name of a model for its twin with OpenAI's faster GELU.
QUICK = "-quickgelu"


def fetch_weights(name: str, tag: str) -> dict[str, Tensor]:
    """Return the weights of network `name` that its library knows as `tag`, from its cache or the network.

    Raises UsageError naming the tags when there is no such tag, and Unavailable naming the file to bring when
    it can't be had: offline this takes seconds, since the connection is tried once before the library does.
    BadData for weights that are not finite.
    """
    source, short = resolve(name)
    source, short = INITIAL.get(short, (source, short)) if source == "wsss" else (source, short)
    loaders = {"torchvision": _from_torchvision, "timm": _from_timm}
    if source in loaders:
        state = loaders[source](short, tag)
        check_weights_finite(state, f"{name} {tag}", "remove its file from the cache of its library and run this again")
        return state
    raise UsageError(f"--weights {tag}: {name} has no weights known by a tag", "give a file: --weights FILE")


def _from_torchvision(name: str, tag: str) -> dict[str, Tensor]:
    from torchvision import models

    known = models.get_model_weights(name).__members__
    if tag not in known:
        raise UsageError(f"--weights {tag}: no such file, and no tag of torchvision's {name}", _one_of(list(known)))
    url = known[tag].url
    file = Path(urlsplit(url).path).name
    if not (Path(hub.get_dir()) / "checkpoints" / file).is_file():
        _check_reachable(url, f"{name} {tag}", url)
    return _loaded(
        lambda: known[tag].get_state_dict(progress=False, map_location="cpu", weights_only=True), f"{name} {tag}", url
    )


def _from_timm(name: str, tag: str) -> dict[str, Tensor]:
    import timm
    from huggingface_hub import try_to_load_from_cache

    bare = name.split(".")[0]
    known = [each.partition(".")[2] for each in timm.list_pretrained(f"{bare}.*")]
    if tag not in known:
        raise UsageError(f"--weights {tag}: no such file, and no tag of timm's {bare}", _one_of(known))
    config = timm.get_pretrained_cfg(f"{bare}.{tag}")
    repository, file = config.hf_hub_id, "model.safetensors"
    wanted = f"{repository}/{file}" if repository else str(config.url)
    cached = repository and isinstance(try_to_load_from_cache(repository, file), str)
    if not cached:
        _check_reachable("https://huggingface.co" if repository else config.url, f"{bare}.{tag}", wanted)
    load = lambda: timm.create_model(f"{bare}.{tag}", pretrained=True, num_classes=0).state_dict()  # noqa: E731
    return _loaded(load, f"{bare}.{tag}", wanted)


def fetch_clip_weights(name: str, tag: str) -> tuple[Path, dict[str, Any]]:
    """Return the file of the weights that open_clip knows as `tag` of model `name`, and how they were trained.

    From open_clip's cache or the network. Raises UsageError naming the tags, Unavailable naming the file to bring.
    """
    import open_clip
    from huggingface_hub import try_to_load_from_cache
    from open_clip import pretrained

    described = pretrained.get_pretrained_cfg(name, tag)
    if not described:
        known = open_clip.list_pretrained_tags_by_model(name)
        raise UsageError(f"--weights {tag}: no such file, and no tag of open_clip's {name}", _one_of(known))
    url, repository = described.get("url", ""), described.get("hf_hub", "").rstrip("/")
    file = "open_clip_model.safetensors" if repository else Path(urlsplit(url).path).name
    cached = repository and isinstance(try_to_load_from_cache(repository, file), str)
    wanted = f"{repository}/{file}" if repository else url
    give = f"{_with_gelu_of(name, described)}--weights FILE"
    if not cached and not (Path("~/.cache/clip").expanduser() / file).is_file():
        _check_reachable("https://huggingface.co" if repository else url, f"{name} {tag}", wanted, give)
    return Path(_loaded(lambda: pretrained.download_pretrained(described), f"{name} {tag}", wanted, give)), described


def _with_gelu_of(name: str, described: dict[str, Any]) -> str:
    """Return the --clip that a file of weights by tag needs: unlike the tag it does not tell which GELU it is for."""
    if not described.get("quick_gelu") or name.endswith(QUICK):
        return ""
    return f"--clip {name}{QUICK} "


def _one_of(tags: list[str]) -> str:
    return f"give a file or one of {', '.join(tags)}" if tags else "give a file: --weights FILE"


def _check_reachable(url: str, what: str, wanted: str, give: str = "--weights FILE") -> None:
    """Raise Unavailable unless the host of `url`, or the proxy to it, answers within seconds."""
    place = urlsplit(getproxies().get("https") or url)
    try:
        socket.create_connection((place.hostname or "", place.port or 443), CONNECT_SECONDS).close()
    except OSError as error:
        raise _unavailable(what, wanted, give, error) from error


def _loaded(load: Any, what: str, wanted: str, give: str = "--weights FILE") -> Any:
    try:
        # The loaders tell about downloads on standard output, which is for data.
        with contextlib.redirect_stdout(io.StringIO()):
            return load()
    except Exception as error:
        raise _unavailable(what, wanted, give, error) from error


def _unavailable(what: str, wanted: str, give: str, error: Exception) -> Unavailable:
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    return Unavailable(
        f"the weights {what} can't be fetched ({reason[0][:100]})", f"bring the file {wanted} and give {give}"
    )
