"""The worker of `cams excel`: it loads a CLIP once and computes the CAMs of the images of a part."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from stages.cams import excel
from stages.cams.config import ExcelConfig
from stages.cams.text_shift import shift_text
from stages.cams.workers import CamsPart, select_device
from stages.data.augment import IMAGENET_MEAN, IMAGENET_STD
from stages.data.image_source import ImageSource
from stages.data.inference_views import build_square_view
from stages.data.single_image import SingleImage
from stages.errors import Unavailable, UsageError
from stages.flow.map_work import MapWork
from stages.flow.parts import Part
from stages.flow.text_centres import orient_text_centres, parse_text_shift
from stages.nets.clip import ClipModel, load_clip
from stages.nets.clip_vision import VisionTower
from stages.nets.precision import DTYPES
from stages.nets.prompt_encoding import encode_classes, encode_words, load_templates
from stages.shards import Item, Shard


class ExcelWorker:
    """Holds a frozen CLIP and the text features of the words, with those of the classes shifted."""

    def __init__(self, work: MapWork) -> None:
        self.work, self.device = work, select_device(work)
        self.config: ExcelConfig = work.config
        clip = load_clip(work.shared["clip"], device=self.device, dtype=DTYPES[self.config.precision])
        if not isinstance(clip.vision, VisionTower):
            raise Unavailable(f"`wsss cams excel` changes the attention of a ViT, and the image tower of "
                              f"{work.config_dict['clip']} is not an ordinary ViT",
                              "Choose one with --clip, for example --clip ViT-B-16")
        self.vision = clip.vision
        if self.config.calibrated_layers > self.vision.num_layers:
            raise UsageError(f"--calibrated-layers {self.config.calibrated_layers} is more than the "
                             f"{self.vision.num_layers} layers of the CLIP",
                             f"Use --calibrated-layers from 1 to {self.vision.num_layers}")
        from_imagenet = self.config.statistics == "imagenet"
        self.mean, self.std = (IMAGENET_MEAN, IMAGENET_STD) if from_imagenet else (clip.mean, clip.std)
        self.words = self._encode_words(clip)
        self.side = self.vision.cell * math.ceil(self.config.side / self.vision.cell)

    def _encode_words(self, clip: ClipModel) -> excel.WordVectors:
        words, templates = self.work.shared["words"], load_templates(self.config.template)
        classes = encode_classes(clip.text, words.classes, templates, self.config.fuse)[0]
        background = encode_words(clip.text, words.background if self.config.background_words else (), templates)
        mode, file = parse_text_shift(self.config.text_shift)
        centres = None if file is None else orient_text_centres(
            self.work.shared["centres"], classes.shape[1], str(file)).to(classes)
        return excel.WordVectors(classes, background if len(background) else classes.new_zeros(0, classes.shape[1]),
                                 shift_text(classes, mode, centres), clip.logit_scale)

    def open(self, part: Part, source: Shard, index: Shard) -> _ExcelPart:
        """Open a part."""
        return self.open_images(ImageSource(index, self.work.root, max_side=self.config.max_side))

    def open_images(self, images: ImageSource | SingleImage) -> _ExcelPart:
        """Open images of the classes of the words."""
        return _ExcelPart(self, images)


class _ExcelPart(CamsPart):
    """A part of `cams excel`, whose images are all resized to one square."""

    def __init__(self, worker: ExcelWorker, images: ImageSource | SingleImage) -> None:
        super().__init__(images, worker.config)
        self.worker = worker

    def batch_key(self, item_id: str) -> int:
        """Return the side of the square: all images can be batched together."""
        return self.worker.side

    def count_pixels(self, item_id: str) -> int:
        """Return the number of pixels at which the image is computed."""
        return self.worker.side**2

    def load(self, item_id: str) -> np.ndarray:
        """Load the image, normalised and resized to the square."""
        self.check_tags(item_id)
        worker = self.worker
        return build_square_view(self.images.read_image(item_id), worker.side, worker.mean, worker.std,
                                 smooth=not worker.config.as_released)

    def compute(self, loaded: Sequence[tuple[str, np.ndarray]]) -> list[Item]:
        """Compute the CAMs of a batch of images, one item per image."""
        worker = self.worker
        images = torch.from_numpy(np.stack([view for _, view in loaded])).to(worker.device)
        cams = excel.compute_cams(worker.vision, images, worker.words, worker.config,
                                  lambda position, scores: self.choose_classes(loaded[position][0], scores))
        with_raw = worker.work.companion is not None
        return [self.build_refined_item(item_id, maps, with_raw=with_raw)
                for (item_id, _), maps in zip(loaded, cams, strict=True)]
