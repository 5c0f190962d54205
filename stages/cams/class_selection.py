"""Selection of the classes that get a CAM in an image: `--tags index|predicted:T|best:T|all`, or `--classes`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from stages.cams.config import CamsConfig
from stages.errors import BadData, UsageError

NO_TAGS_REMEDY = ("Use --tags predicted:0.5 to map the classes that the network predicts, --classes NAME,NAME, or "
                  "--tags all")
DEFAULT_TAGS = "index"
IMAGE_FILE_TAGS = "best:0.5"  # image files have no tags
_RULES_WITH_THRESHOLD = ("predicted", "best")
_MAX_LISTED_CLASSES = 8
AnyCamsConfig = TypeVar("AnyCamsConfig", bound=CamsConfig)


def parse_tags(text: str) -> tuple[str, float]:
    """Parse `--tags index|predicted:T|best:T|all` into (rule, threshold). Raises UsageError."""
    rule, colon, value = text.partition(":")
    has_threshold = rule in _RULES_WITH_THRESHOLD
    try:
        threshold = float(value) if has_threshold else 0.0
    except ValueError:
        threshold = -1.0
    is_known = has_threshold or rule in ("index", "all")
    if not is_known or (colon and not has_threshold) or not 0 <= threshold <= 1:
        raise UsageError(f"--tags {text} is not index, predicted:T, best:T (T from 0 to 1) or all",
                         "Use for example --tags predicted:0.5")
    return rule, threshold


def check_selection(config: CamsConfig) -> None:
    """Raise UsageError for an invalid `--tags`, and for `--classes` together with `--tags`."""
    parse_tags(config.tags)
    if config.classes and config.tags != DEFAULT_TAGS:
        raise UsageError(f"--classes {','.join(config.classes)} and --tags {config.tags} both select the classes",
                         "Use one of them")


def resolve_selection(config: AnyCamsConfig, classes: Sequence[str], where: str, *, has_image_files: bool,
                      image_file_tags: str = IMAGE_FILE_TAGS) -> AnyCamsConfig:
    """Return the settings with `classes` in the order of their ids, and `tags` that suit image files.

    `classes` are the class names with the background at position 0, and `where` is what has them, for messages.
    Raises UsageError for an unknown class.
    """
    if config.classes:
        names = [part.strip() for name in config.classes for part in ([name] if name in classes else name.split(";"))]
        class_ids = find_class_ids(names, classes, where)
        return replace(config, classes=tuple(classes[class_id] for class_id in class_ids))
    if has_image_files and config.tags == DEFAULT_TAGS:
        return replace(config, tags=image_file_tags)
    return config


def find_class_ids(names: Sequence[str], classes: Sequence[str], where: str = "") -> tuple[int, ...]:
    """Return the sorted ids 1..C of class names. Raises UsageError for an unknown name, with similar ones."""
    id_by_name = {name: class_id for class_id, name in enumerate(classes) if class_id}
    for name in names:
        if name not in id_by_name:
            raise UsageError(f"--classes: {where} has no class {name!r}", _suggest_classes(name, list(id_by_name)))
    return tuple(sorted({id_by_name[name] for name in names}))


def _suggest_classes(name: str, classes: list[str]) -> str:
    """Return a remedy for an unknown class: similar names, and the classes."""
    by_lower_name = {known.lower(): known for known in classes}
    similar = [by_lower_name[match] for match in difflib.get_close_matches(name.lower(), by_lower_name, n=3)]
    more = f", ... ({len(classes)} in all)" if len(classes) > _MAX_LISTED_CLASSES else ""
    hint = f"Did you mean {' or '.join(similar)}? " if similar else ""
    return f"{hint}The classes are {', '.join(classes[:_MAX_LISTED_CLASSES])}{more}"


def get_best_threshold(config: CamsConfig) -> float | None:
    """Return the threshold T of `--tags best:T`, None with another rule or with `--classes`."""
    rule, threshold = parse_tags(config.tags)
    return threshold if rule == "best" and not config.classes else None


def select_class_ids(rule: str, threshold: float, labels: tuple[int, ...] | None, scores: np.ndarray) -> np.ndarray:
    """Return the class ids (K,) uint16 to map, given the index's `labels` and the network's `scores` (C,) in [0, 1].

    Raises BadData if the rule is `index` and the image has no tags.
    """
    if rule == "index":
        if labels is None:
            raise BadData("the index has no tags for this image", NO_TAGS_REMEDY)
        return np.array(sorted(labels), dtype=np.uint16)
    is_selected = scores >= threshold if rule in _RULES_WITH_THRESHOLD else np.ones(len(scores), dtype=bool)
    if rule == "best" and len(scores):
        is_selected[scores.argmax()] = True
    return (np.flatnonzero(is_selected) + 1).astype(np.uint16)
