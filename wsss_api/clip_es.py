"""CAMs of single images by CLIP and words (CLIP-ES)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stages.cams.class_selection import IMAGE_FILE_TAGS
from stages.cams.config import ClipEsConfig
from stages.cams.stage import build_clip_es_work
from stages.flow.execution import Inputs
from stages.nets.clip import find_clip
from wsss_api.items import CamItem, build_cam_item
from wsss_api.photographs import build_worker, compute_item, join_words, select_classes, without_selection
from wsss_api.reports import CollectingReport, ReportOption
from wsss_api.settings import build_settings

_cached_workers: dict[Any, Any] = {}  # at most one: a CLIP model needs hundreds of megabytes


def compute_clip_es(image: Any, words: str | Iterable[str] | None, *, clip: str | os.PathLike[str] | None,
                    weights: str | os.PathLike[str] | None, report: ReportOption, **settings: Any) -> CamItem:
    """Return the CAMs of an image; see `wsss.clip_es`."""
    config = build_settings(ClipEsConfig, settings, "clip_es", ("clip", "weights", "report"))
    text = None if words is None else join_words(words)
    worker = _load_worker(without_selection(config), None if clip is None else os.fspath(clip),
                          None if weights is None else os.fspath(weights), text, CollectingReport(report))
    names = worker.work.shared["words"]
    classes = ("background", *names.names)
    selecting = select_classes(worker, config, classes, names.source, "all" if text else IMAGE_FILE_TAGS)
    return build_cam_item(compute_item(selecting, image, classes), classes, has_background=False)


def _load_worker(config: ClipEsConfig, clip: str | None, weights: str | None, words: str | None,
                 report: CollectingReport) -> Any:
    """Return a worker with CLIP and the encoded words; that of the last call if nothing differs."""
    key = (config, *((name, _read_stamp(name)) for name in (clip, weights, words, config.names, config.template)))
    if key not in _cached_workers:
        _cached_workers.clear()
        inputs = Inputs([], {"clip": clip, "weights": weights, "words": words})
        work, _ = build_clip_es_work(config, find_clip(clip, weights), inputs, has_image_files=True, report=report)
        _cached_workers[key] = build_worker(work)
    return _cached_workers[key]


def _read_stamp(name: str | None) -> tuple[int, int] | None:
    """Return what changes when a file is replaced; None for a name that is no file."""
    try:
        status = Path(name or "").stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size
