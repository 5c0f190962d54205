"""`train-seg`: train a segmentation network on the masks of the images of an index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.data.augment import SegmentationViewSettings, sample_segmentation_view
from stages.data.image_size import resize_labels
from stages.data.image_source import ImageSource, open_image_sources
from stages.errors import BadData, UsageError
from stages.flow.background_share import WARNING_SHARE
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.index_lookup import check_same_images
from stages.flow.item_arrays import extract_mask
from stages.flow.mask_findings import report_contradictions
from stages.flow.training_images import describe_training_images
from stages.nets.net_files import describe_net
from stages.nets.segmenter import build_segmenter
from stages.shards import Run, check_same_classes
from stages.train_seg.config import SegConfig
from stages.train_seg.losses import LOSSES, ignore_low_confidence, resize_logits, resize_mask
from stages.training.distributed import mute_unless_main_process
from stages.training.initialisation import (
    build_training_provenance,
    compute_weights_digest,
    initialise_net,
    read_supervision,
    report_rejected_images,
    require_samples,
    resolve_input_normalisation,
)
from stages.training.loop import TrainingJob, resolve_settings, train, try_skip_training


def run(config: SegConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Train a network on `--masks`. Raises UsageError, MissingInput, BadData, and whatever `train` raises."""
    output.check_not_folder()
    report.start_phase("reading the index")
    index, masks_option = Run(inputs.paths, "index"), inputs.require("masks")
    masks = None if masks_option == "truth" else Run([masks_option], "masks")
    if masks is None and config.loss.endswith("confidence"):
        raise UsageError(f"--loss {config.loss} needs masks with a confidence, which --masks truth does not have",
                         "Use --loss ce or balanced, or pass masks of `wsss pseudo` as --masks")
    report, requested_device, config = mute_unless_main_process(report), config.device, resolve_settings(config)
    weights = inputs.named.get("weights")
    digests = {"index": index.digest, "masks": masks.digest if masks else "truth", **compute_weights_digest(weights)}
    entry = build_training_provenance("train-seg", "", config, digests)
    if summary := try_skip_training(entry, output, report):
        return summary
    samples = _Samples(index, masks, inputs.root, config)
    require_samples(samples.images_with_masks, f"of the index has a mask in --masks {masks_option}",
                    str(index.first.path))
    report_rejected_images(index, report)
    if masks is None:
        report_contradictions(index.shards, report)
    if samples.num_skipped:
        report.info(f"Skipping {samples.num_skipped} images of the index that have no mask in --masks {masks_option}.")
    torch.manual_seed(config.seed)
    net = build_segmenter(config.net, len(index.classes), head=config.head, stride=config.stride or None)
    initial = initialise_net(net, config, weights, report)
    mean, std = resolve_input_normalisation(net, config, weights)
    samples.view = replace(samples.view, mean=mean, std=std)
    supervision = f"pseudo masks ({read_supervision(index)})" if masks else "truth (full supervision)"
    net.mean, net.std = mean, std
    parent = masks.first if masks else index.first
    training_images = describe_training_images(index, [item_id for _, item_id in samples.images_with_masks])
    description = describe_net(net, classes=list(index.classes), initial_weights=initial, supervision=supervision,
                               provenance=[*parent.provenance, entry], **training_images)
    job = TrainingJob(net, _Loss(config, samples.view.ignore_index), samples.draw, len(samples.images_with_masks),
                      list(net.head_parameters()), description, summarise_counts=_PixelSummary(report),
                      steps=config.steps,
                      draw_batch_value=samples.draw_scale_factor if config.scale_per == "batch" else None)
    return train(job, config, output, requested_device=requested_device, stop=stop, report=report)


class _Loss:
    """The loss that the settings choose, summed over the outputs that the network is trained on."""

    def __init__(self, config: SegConfig, ignore_index: int) -> None:
        self.loss, self.ignore_index = LOSSES[config.loss], ignore_index

    def __call__(self, net: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mask = batch["mask"].long()
        outputs = [logits.float() for logits in net.forward_training(batch["image"])]
        counts = {"pixels": torch.tensor(mask.numel()), "pixels_with_loss": (mask != self.ignore_index).sum(),
                  "background_pixels": (mask == 0).sum()}
        if len(outputs) > 1:
            losses = [self.loss(logits, resize_mask(mask, logits.shape[-2:]), ignore_index=self.ignore_index)
                      for logits in outputs]
            return {"loss": torch.stack(losses).sum(), "counted": counts}
        logits = resize_logits(outputs[0], mask)
        return {"loss": self.loss(logits, mask, ignore_index=self.ignore_index), "counted": counts}


class _PixelSummary:
    """Summarise the pixels trained on, and warn once when almost all those with a loss are background."""

    def __init__(self, report: Report) -> None:
        self.report, self.has_warned = report, False

    def __call__(self, counts: Mapping[str, int]) -> str:
        """Return a sentence about the share of pixels with a loss. Raises BadData when no pixel has one."""
        num_pixels, num_with_loss = counts.get("pixels", 0), counts.get("pixels_with_loss", 0)
        if num_pixels and not num_with_loss:
            raise BadData("every pixel of every mask is ignored, so there is no loss",
                          "Make masks with fewer ignored pixels, or use a smaller --mu")
        num_background = counts.get("background_pixels", 0)
        if num_background > WARNING_SHARE * num_with_loss and not self.has_warned:
            self.has_warned = True
            self.report.info(f"warning: {num_background / num_with_loss:.2%} of the pixels with a loss are background. "
                             "Look at the masks with `wsss show`, and check the --background option of `wsss pseudo`.")
        return (f"{num_with_loss / max(num_pixels, 1):.1%} of the pixels in training had a loss; the others are "
                "ignored or lie outside the image.")


class _Samples:
    """Draw augmented views of the images that have a mask, together with it."""

    def __init__(self, index: Run, masks: Run | None, root: str | None, config: SegConfig) -> None:
        if masks:
            check_same_images(index, masks)
            check_same_classes((str(index.first.path), index.classes), (str(masks.first.path), masks.classes))
        self.masks, self.config = masks, config
        self.sources = open_image_sources(index, root, max_side=config.max_side)
        usable = [(source, item_id) for source in self.sources for item_id in source.index.ids
                  if item_id not in source.index.errors]
        self.images_with_masks = [(source, item_id) for source, item_id in usable
                                  if (item_id in masks if masks else source.has_mask(item_id))]
        self.num_skipped = len(usable) - len(self.images_with_masks)
        self.view = SegmentationViewSettings(**config.view, scale=config.scale_range, resize=config.resize,
                                             ignore_index=255 if len(index.classes) <= 255 else 65535,
                                             anchor_top_left=config.pad_place == "corner",
                                             padding_label=0 if config.pad_label == "background" else None)

    def draw_scale_factor(self, generator: np.random.Generator) -> float:
        """Draw the factor by which all images of a batch are resized."""
        return float(generator.uniform(*self.config.scale_range))

    def draw(self, position: int, generator: np.random.Generator, factor: float | None = None) -> dict[str, Any]:
        """Return one sample: `image` (3, S, S) float32 and `mask` (S, S) int32, resized by `factor` if it is given."""
        source, item_id = self.images_with_masks[position]
        image, mask, size = source.read_image(item_id), self._read_mask(source, item_id), source.read_size(item_id)
        if size != mask.shape:
            raise BadData(f"the mask has {mask.shape[0]}x{mask.shape[1]} pixels (height x width), but the image has "
                          f"{size[0]}x{size[1]}", "Make the masks again from this index", where=item_id)
        mask = resize_labels(mask, image.shape[:2])
        view = self.view if factor is None else replace(self.view, scale=(factor, factor))
        image, mask = sample_segmentation_view(image, mask, generator, view)
        return {"image": image, "mask": mask.astype(np.int32)}

    def _read_mask(self, source: ImageSource, item_id: str) -> np.ndarray:
        if self.masks is None:
            return source.read_mask(item_id)
        item = self.masks.item(item_id)
        mask = extract_mask(item, len(self.masks.classes) - 1)
        if not self.config.loss.endswith("confidence"):
            return mask
        if "confidence" not in item.datasets:
            raise BadData("the mask has no confidence", "Make the masks with `wsss pseudo`, or use --loss ce",
                          where=item_id)
        return ignore_low_confidence(mask, item.datasets["confidence"], self.config.mu, self.view.ignore_index)
