"""Computes one image with the worker of a map stage, as the commands compute an image file."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from stages.cams.class_selection import IMAGE_FILE_TAGS, check_selection, resolve_selection
from stages.cams.config import CamsConfig
from stages.errors import BadData
from stages.flow.batches import compute_batch
from stages.flow.device import use_threads
from stages.flow.map_work import MapWork
from stages.shards import Item
from wsss_api.images import open_image
from wsss_api.reports import restore_threads


def build_worker(work: MapWork) -> Any:
    """Build the worker of a stage, with the threads of the work."""
    with restore_threads():
        return work.build_worker()


def compute_item(worker: Any, image: Any, classes: tuple[str, ...]) -> Item:
    """Return what the worker computes for an image. Raises BadData if the image fails, and what `open_image` raises."""
    item_id, source = open_image(image, classes, worker.config.max_side)
    with restore_threads():
        use_threads(worker.config.threads)
        part = worker.open_images(source)
        item = compute_batch([(item_id, part.load(item_id))], part)[0]
    if item.error is not None:
        raise BadData(item.error)
    return item


def select_classes(worker: Any, config: CamsConfig, classes: tuple[str, ...], where: str,
                   image_file_tags: str = IMAGE_FILE_TAGS) -> Any:
    """Return a worker that shares the network of `worker`, and maps the classes that `config` selects.

    Workers read these two settings for each image only. Raises UsageError for an unknown class.
    """
    check_selection(config)
    resolved = resolve_selection(config, classes, where, has_image_files=True, image_file_tags=image_file_tags)
    selecting = copy.copy(worker)
    selecting.config = replace(worker.config, tags=resolved.tags, classes=resolved.classes)
    selecting.work = replace(worker.work, config=selecting.config)
    return selecting


def without_selection(config: Any) -> Any:
    """Return the settings without the selection of classes, which does not change the network."""
    return replace(config, tags=CamsConfig.tags, classes=())


def join_words(words: str | Iterable[str]) -> str:
    """Return words as the option --words takes them. A list is never read as the name of a file."""
    return words if isinstance(words, str) else "".join(f"{word};" for word in words)
