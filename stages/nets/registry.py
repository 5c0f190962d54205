"""Backbones by name: `[timm:|torchvision:|wsss:]NAME`."""

from __future__ import annotations

import difflib
import importlib

from stages.errors import UsageError
from stages.nets.backbone import Backbone

# Name, module and class; nothing is imported before it is asked for.
WSSS = {
    "deeplabv2_resnet101": ("stages.nets.deeplab_v2", "CaffeResNet101"),
    "resnet38": ("stages.nets.resnet38", "ResNet38"),
    "resnet50_irn": ("stages.nets.resnet50_irn", "ResNet50Irn"),
    "tiny": ("stages.nets.tiny", "Tiny"),
}
SOURCES = ("wsss", "torchvision", "timm")


def build_backbone(name: str, *, stride: int | None = None) -> Backbone:
    """Return the backbone `name` with fresh weights, in training mode, at `stride` (None: its own).

    A name without a prefix is looked for among ours, then torchvision's, then timm's. Raises UsageError with
    close names for an unknown one, and for a stride that the network can't have.
    """
    source, short = resolve(name)
    if source == "wsss":
        module, kind = WSSS[short]
        return getattr(importlib.import_module(module), kind)(stride=stride)
    if source == "torchvision":
        from stages.nets.torchvision_backbone import TorchvisionBackbone

        return TorchvisionBackbone(short, stride=stride)
    from stages.nets.timm_backbone import TimmBackbone

    return TimmBackbone(short, stride=stride)


def resolve(name: str) -> tuple[str, str]:
    """Return (source, name) of a backbone's name with or without prefix; UsageError with close names."""
    prefix, colon, short = name.rpartition(":")
    if colon and prefix not in SOURCES:
        raise UsageError(f"--net {name}: {prefix!r} is no source of networks", f"give one of {', '.join(SOURCES)}")
    for source in [prefix] if colon else SOURCES:
        if _known(source, short):
            return source, short
    close = _close_names(short, [prefix] if colon else list(SOURCES))
    raise UsageError(f"--net {name}: no such network", f"did you mean {', '.join(close)}?" if close else "")


def _known(source: str, name: str) -> bool:
    if source == "timm":
        import timm

        return timm.is_model(name)
    return name in _names(source)


def _names(source: str) -> list[str]:
    if source == "wsss":
        return list(WSSS)
    if source == "torchvision":
        from torchvision import models

        return models.list_models(module=models)
    import timm

    return timm.list_models()


def _close_names(name: str, sources: list[str]) -> list[str]:
    """Return up to four known names that resemble `name`, with their prefixes."""
    named = [(known, f"{source}:{known}") for source in sources for known in _names(source)]
    close = difflib.get_close_matches(name, [known for known, _ in named], n=4)
    return list(dict.fromkeys(next(full for known, full in named if known == each) for each in close))
