"""Says in words how predictions were made and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.eval.config import EvalConfig


def describe_protocol(config: EvalConfig, classes: Sequence[str], provenance: Sequence[Mapping[str, Any]]) -> str:
    """Return in words how predictions were made and compared: the `protocol` of the result."""
    background = "with background" if classes[0] else "without background"
    ignored = "skipped" if config.ignore_predicted else "misses"
    absent = "left out" if config.skip_missing else "background"
    return (f"{len(classes) - (not classes[0])} classes {background}; 255 in the truth skipped, in predictions "
            f"{ignored}; images without prediction {absent}; classes that count: {config.rule}"
            f"{_describe_word_protocol(provenance)}")


def _describe_word_protocol(provenance: Sequence[Mapping[str, Any]]) -> str:
    """Return how images were compared with words, if they were: it changes the mIoU by tens of points."""
    entries = [entry for entry in provenance if "protocol" in entry.get("config", {})]
    if not entries:
        return ""
    settings, method = entries[-1]["config"], entries[-1]["method"]
    pamr = "no PAMR"
    if settings["pamr"]:
        pamr = f"PAMR {','.join(map(str, settings['dilations']))} x {settings['iterations']}"
    threshold = f", threshold {settings['threshold']}" if settings["background"] in ("threshold", "both") else ""
    shift = f" shifted by {settings['shift']}" if settings["score"] == "sigmoid" and "shift" in settings else ""
    score = f"{settings['score']} at {settings['scale']}{shift}"
    if settings.get("knowledge"):
        score = f"the net's masks with {settings['knowledge']} of CLIP's own"
    elif settings["scale"] is None:
        score = "the net's masks"
    smooth = ", smoothed" if settings.get("smooth") else ""
    area = ""
    if settings.get("area_threshold"):
        area = f", classes below {settings['area_threshold']} of an image left out"
    released = ", as released" if settings.get("as_released") else ""
    return (f"; {method} by words ({settings['protocol']}): short side {settings['short_side']}{smooth}, "
            f"windows of {settings['window']} every {settings['stride']}, "
            f"{settings.get('statistics', 'net')} statistics, names {settings['words']['source']}, "
            f"{len(settings['template'])} templates, {score}, background by {settings['background']}{threshold}{area}, "
            f"{pamr}, mean of the windows' {settings['blend']}{released}")
