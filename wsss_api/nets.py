"""Loads a trained network, and computes CAMs and masks of single images with it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from stages.cams.config import CnnConfig, GradcamConfig, MctformerConfig
from stages.cams.stage import build_cnn_work, build_gradcam_work, build_mctformer_work
from stages.errors import BadData, UsageError
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs
from stages.flow.map_work import MapWork
from stages.nets.classifier import ClassTokenClassifier
from stages.nets.mctformer import MCTFORMER_HEADS
from stages.nets.net_description import read_verified_description
from stages.nets.text_grounded import TEXT_SEGMENTATION_TASK
from stages.segment.config import GroundedConfig, NetConfig
from stages.segment.stage import build_grounded_work, build_net_work
from wsss_api.items import CamItem, MaskItem, build_cam_item, build_mask_item
from wsss_api.photographs import build_worker, compute_item, join_words, select_classes, without_selection
from wsss_api.reports import CollectingReport, ReportOption
from wsss_api.settings import build_settings

_CAM_CONFIGS: dict[str, type] = {"cnn": CnnConfig, "mctformer": MctformerConfig, "gradcam": GradcamConfig}


class Net:
    """A trained network. The weights are loaded when they are first needed, and again if other settings need them."""

    def __init__(self, path: str | os.PathLike[str], device: str = "auto", report: ReportOption = None) -> None:
        """Use `load_net`, which documents the arguments."""
        self.path, self.device = os.fspath(path), device
        resolve_device(device)
        self.description: Mapping[str, Any] = read_verified_description(self.path)
        self._report = CollectingReport(report)
        self._cached_workers: dict[str, tuple[Any, Any]] = {}

    def __repr__(self) -> str:
        return f"<wsss.Net {self.path}: {self.task}, {max(0, len(self.classes) - 1)} classes>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names by id; the first is the background, and the only one if the network segments any words."""
        return tuple(self.description.get("classes", ()))

    @property
    def task(self) -> str:
        """What the network was trained for: classification, segmentation, affinities, ..."""
        return str(self.description["task"])

    def cams(self, image: Any, classes: str | Iterable[str] = (), *, method: str = "",
             **settings: Any) -> CamItem:
        """Return the CAMs of an image, as `wsss cams METHOD` computes them for an image file.

        `classes` are the names of the classes that get a CAM; without them those that score 0.5, or the best one.
        `method` is cnn, mctformer or gradcam, and by default the one for this network. `settings` are those of the
        command, with its defaults, such as scales=(1, 0.5) or max_side=512. Raises UsageError, MissingInput, BadData.
        """
        method = method or self._choose_method()
        if method not in _CAM_CONFIGS:
            raise UsageError(f"method={method!r} is not one of {', '.join(_CAM_CONFIGS)}")
        if self.task != "classification":
            raise BadData(f"the network was trained for {self.task}, not for classification",
                          "Use segment(image), or a network of `wsss train-cls`", where=self.path)
        config = build_settings(_CAM_CONFIGS[method], {"device": self.device, "classes": classes, **settings},
                                "Net.cams", ("method",))
        worker = self._load_worker(method, without_selection(config), lambda base: self._build_cams_work(method, base))
        item = compute_item(select_classes(worker, config, self.classes, self.path), image, self.classes)
        return build_cam_item(item, self.classes, has_background=False)

    def segment(self, image: Any, words: str | Iterable[str] | None = None, **settings: Any) -> MaskItem:
        """Return the mask of an image, as `wsss segment net` computes it for an image file.

        A network of `wsss train-text` needs `words`: a list of classes, or text as for --words. `settings` are those
        of the command, with its defaults. Raises UsageError, MissingInput, BadData, Unavailable.
        """
        if self.task == TEXT_SEGMENTATION_TASK:
            return self._segment_words(image, words, settings)
        if words is not None:
            raise UsageError("words can't be chosen for a network with classes", "Leave out `words`", where=self.path)
        config = build_settings(NetConfig, {"device": self.device, **settings}, "Net.segment", ("words",))
        worker = self._load_worker("net", config, lambda base: build_net_work(base, self.path, self.description))
        return build_mask_item(compute_item(worker, image, self.classes), self.classes)

    def _segment_words(self, image: Any, words: str | Iterable[str] | None, settings: Mapping[str, Any]) -> MaskItem:
        config = build_settings(GroundedConfig, {"device": self.device, **settings}, "Net.segment", ("words",))
        text, head = None if words is None else join_words(words), str(self.description["architecture"]["head"])
        inputs = Inputs([], {"net": self.path, "words": text})
        worker = self._load_worker(f"{head} {text}", config, lambda base: build_grounded_work(
            head, base, self.description, inputs, has_image_files=True, report=self._report)[0])
        classes = ("background", *worker.work.shared["words"].names)
        return build_mask_item(compute_item(worker, image, classes), classes)

    def _choose_method(self) -> str:
        head = self.description["architecture"].get("head", "")
        if head in MCTFORMER_HEADS:
            return "mctformer"
        return "gradcam" if head == ClassTokenClassifier.head else "cnn"

    def _build_cams_work(self, method: str, config: Any) -> MapWork:
        if method == "gradcam":
            config = replace(config, score="sigmoid" if config.score == "auto" else config.score)
            return build_gradcam_work(config, {"net": self.path, "weights": None},
                                      {"net": self.description["sha256"]})
        build_work = build_cnn_work if method == "cnn" else build_mctformer_work
        return build_work(config, self.path, self.description, has_image_files=True)

    def _load_worker(self, key: str, config: Any, build_work: Any) -> Any:
        """Return the worker of a method; a cached one if it has the same settings. Raises BadData if the file changed.
        """
        cached_config, worker = self._cached_workers.get(key, (None, None))
        if cached_config != config:
            self._cached_workers.pop(key, None)
            worker = build_worker(build_work(config))
            description = getattr(worker, "description", self.description)
            if description["sha256"] != self.description["sha256"]:
                raise BadData("the file has changed since it was loaded", "Call load_net again", where=self.path)
            self._cached_workers[key] = config, worker
        return worker
