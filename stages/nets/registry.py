"""Backbones by name: `[timm:|torchvision:|wsss:]NAME`."""

from __future__ import annotations

import difflib
import importlib

from stages.errors import UsageError
from stages.nets.backbone import Backbone
from stages.nets.torchvision_import import import_torchvision_models

# Name, module and class; a module is imported only when its network is built.
WSSS_BACKBONES = {
    "deeplabv2_resnet101": ("stages.nets.deeplab_v2", "CaffeResNet101"),
    "resnet38": ("stages.nets.resnet38", "ResNet38"),
    "resnet50_irn": ("stages.nets.resnet50_irn", "ResNet50Irn"),
    "tiny": ("stages.nets.tiny", "Tiny"),
}
BACKBONE_SOURCES = ("wsss", "torchvision", "timm")


def build_backbone(name: str, *, stride: int | None = None) -> Backbone:
    """Build the backbone `name` with fresh weights, in training mode, at `stride` (None: its native stride).

    A name without prefix is looked up among those of wsss, then torchvision, then timm. Raises UsageError with
    similar names for an unknown one, and for a stride that the network cannot have.
    """
    source, short_name = resolve_backbone_name(name)
    if source == "wsss":
        module_name, class_name = WSSS_BACKBONES[short_name]
        return getattr(importlib.import_module(module_name), class_name)(stride=stride)
    if source == "torchvision":
        from stages.nets.torchvision_backbone import TorchvisionBackbone

        return TorchvisionBackbone(short_name, stride=stride)
    from stages.nets.timm_backbone import TimmBackbone

    return TimmBackbone(short_name, stride=stride)


def resolve_backbone_name(name: str) -> tuple[str, str]:
    """Return (source, name) of a backbone's name with or without prefix. Raises UsageError with similar names."""
    prefix, colon, short_name = name.rpartition(":")
    if colon and prefix not in BACKBONE_SOURCES:
        raise UsageError(f"--net {name}: there is no source of networks named {prefix!r}",
                         f"Use one of the prefixes {', '.join(BACKBONE_SOURCES)}")
    sources = [prefix] if colon else list(BACKBONE_SOURCES)
    for source in sources:
        if _has_network(source, short_name):
            return source, short_name
    suggestions = _suggest_names(short_name, sources)
    raise UsageError(f"--net {name}: there is no such network",
                     f"Did you mean {', '.join(suggestions)}?" if suggestions else
                     f"Give a network of {', '.join(sources)}")


def _has_network(source: str, name: str) -> bool:
    if source == "timm":
        import timm

        return timm.is_model(name)
    return name in _list_names(source)


def _list_names(source: str) -> list[str]:
    if source == "wsss":
        return list(WSSS_BACKBONES)
    if source == "torchvision":
        models = import_torchvision_models()

        return models.list_models(module=models)
    import timm

    return timm.list_models()


def _suggest_names(name: str, sources: list[str]) -> list[str]:
    """Return up to four existing names that resemble `name`, with their prefixes."""
    pairs = [(short_name, f"{source}:{short_name}") for source in sources for short_name in _list_names(source)]
    matches = difflib.get_close_matches(name, [short_name for short_name, _ in pairs], n=4)
    return list(dict.fromkeys(next(full_name for short_name, full_name in pairs if short_name == match)
                              for match in matches))
