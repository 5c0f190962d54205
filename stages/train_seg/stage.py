"""`train-seg`: an index and masks to a segmentation network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.data.augment import SegmentationView, segmentation_view
from stages.data.source import ImageSource, sources_of
from stages.errors import BadData, UsageError
from stages.flow.background_share import LARGEST_SHARE
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.maps import mask_ids
from stages.nets.files import describe_net
from stages.nets.segmenter import build_segmenter
from stages.shards import Run, same_classes
from stages.train_seg.config import SegConfig
from stages.train_seg.losses import LOSSES, at_size, confident, small_mask
from stages.training.distributed import heard
from stages.training.loop import Job, resolved, train, without_training
from stages.training.start import (
    at_least_one,
    input_statistics,
    start_from,
    supervision_of,
    tell_refused,
    training_entry,
    weights_digest,
)


def run(config: SegConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Train a network on `--masks`. Raises UsageError, MissingInput, BadData, and what `train` raises."""
    output.check_file()
    index, masks_given = Run(inputs.paths, "index"), inputs.require("masks")
    masks = None if masks_given == "truth" else Run([masks_given], "masks")
    if masks is None and config.loss.endswith("confidence"):
        raise UsageError(f"--loss {config.loss} is for masks with a confidence, which the truth lacks",
                         "take ce or balanced, or --masks of wsss pseudo")
    report, ordinal, config = heard(report), config.device, resolved(config)
    weights = inputs.named.get("weights")
    digests = {"index": index.digest, "masks": masks.digest if masks else "truth", **weights_digest(weights)}
    entry = training_entry("train-seg", "", config, digests)
    if answer := without_training(entry, output, report):
        return answer
    samples = _Samples(index, masks, inputs.root, config)
    at_least_one(samples.chosen, f"has a mask in {masks_given}", str(index.first.path))
    tell_refused(index, report)
    if samples.skipped:
        report.tell(f"{samples.skipped} images of the index have no mask in {masks_given} and are left out")
    torch.manual_seed(config.seed)
    net = build_segmenter(config.net, len(index.classes), head=config.head, stride=config.stride or None)
    initial = start_from(net, config, weights, report)
    mean, std = input_statistics(net, config, weights)
    samples.view = replace(samples.view, mean=mean, std=std)
    supervision = f"pseudo masks ({supervision_of(index)})" if masks else "truth (full supervision)"
    net.mean, net.std = mean, std
    made_from = masks.first if masks else index.first
    description = describe_net(net, classes=list(index.classes), initial_weights=initial, supervision=supervision,
                               provenance=[*made_from.provenance, entry])
    job = Job(net, _Loss(config, samples.view.ignore), samples.draw, len(samples.chosen),
              list(net.head_parameters()), description, sum_up=_SumUp(report), steps=config.steps,
              draw_shared=samples.draw_factor if config.scale_per == "batch" else None)
    return train(job, config, output, ordinal=ordinal, stop=stop, report=report)


class _Loss:
    """The loss that the settings name, summed over what the network is trained on."""

    def __init__(self, config: SegConfig, ignore: int) -> None:
        self.loss, self.ignore = LOSSES[config.loss], ignore

    def __call__(self, net: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mask = batch["mask"].long()
        outputs = [logits.float() for logits in net.training_outputs(batch["image"])]
        counted = {"pixels": torch.tensor(mask.numel()), "pixels_with_loss": (mask != self.ignore).sum(),
                   "background_pixels": (mask == 0).sum()}
        if len(outputs) > 1:
            parts = [self.loss(logits, small_mask(mask, logits.shape[-2:]), ignore=self.ignore) for logits in outputs]
            return {"loss": torch.stack(parts).sum(), "counted": counted}
        return {"loss": self.loss(at_size(outputs[0], mask), mask, ignore=self.ignore), "counted": counted}


class _SumUp:
    """Says what the pixels seen were, and warns once where almost all that had a loss were background."""

    def __init__(self, report: Report) -> None:
        self.report, self.warned = report, False

    def __call__(self, counted: Mapping[str, int]) -> str:
        """Return how many of the pixels seen had a loss. Raises BadData when none had."""
        seen, kept = counted.get("pixels", 0), counted.get("pixels_with_loss", 0)
        if seen and not kept:
            raise BadData("no pixel of any mask counts: all are ignored", "make masks that say more, or lower --mu")
        background = counted.get("background_pixels", 0)
        if background > LARGEST_SHARE * kept and not self.warned:
            self.warned = True
            self.report.tell(f"warning: {background / kept:.2%} of the pixels with a loss are background; look at the "
                             "masks with wsss show, and check the --background that wsss pseudo made them with")
        return f"{kept / max(seen, 1):.1%} of the pixels seen had a loss: the others are ignored, or beyond the image"


class _Samples:
    """Draws augmented views of the images that have a mask, with it."""

    def __init__(self, index: Run, masks: Run | None, root: str | None, config: SegConfig) -> None:
        if masks:
            same_classes((str(index.first.path), index.classes), (str(masks.first.path), masks.classes))
        self.masks, self.config = masks, config
        self.sources = sources_of(index, root)
        usable = [(source, item_id) for source in self.sources for item_id in source.index.ids
                  if item_id not in source.index.errors]
        self.chosen = [(source, item_id) for source, item_id in usable
                       if (item_id in masks if masks else source.has_mask(item_id))]
        self.skipped = len(usable) - len(self.chosen)
        self.view = SegmentationView(**config.view, scale=config.scale_range, resize=config.resize,
                                     ignore=255 if len(index.classes) <= 255 else 65535,
                                     in_corner=config.pad_place == "corner",
                                     padding=0 if config.pad_label == "background" else None)

    def draw_factor(self, generator: np.random.Generator) -> float:
        """Return the factor by which all images of a batch are resized."""
        return float(generator.uniform(*self.config.scale_range))

    def draw(self, position: int, generator: np.random.Generator, factor: float | None = None) -> dict[str, Any]:
        """Return one sample: `image` (3, S, S) float32 and `mask` (S, S) int32; resized by `factor` where there is one.
        """
        source, item_id = self.chosen[position]
        image, mask = source.image(item_id), self._mask(source, item_id)
        if image.shape[:2] != mask.shape:
            raise BadData(f"the mask is {mask.shape}, the image {image.shape[:2]}", "make the masks again",
                          where=item_id)
        view = self.view if factor is None else replace(self.view, scale=(factor, factor))
        image, mask = segmentation_view(image, mask, generator, view)
        return {"image": image, "mask": mask.astype(np.int32)}

    def _mask(self, source: ImageSource, item_id: str) -> np.ndarray:
        if self.masks is None:
            return source.mask(item_id)
        item = self.masks.item(item_id)
        mask = mask_ids(item, len(self.masks.classes) - 1)
        if not self.config.loss.endswith("confidence"):
            return mask
        if "confidence" not in item.datasets:
            raise BadData("its mask has no confidence", "make the masks with wsss pseudo, or use --loss ce",
                          where=item_id)
        return confident(mask, item.datasets["confidence"], self.config.mu, self.view.ignore)
