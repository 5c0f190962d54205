"""`train-aff`: train a network that predicts the affinity of neighbouring cells, from CAMs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.data.augment import SegmentationViewSettings, normalise
from stages.data.image_source import open_image_sources
from stages.errors import BadData, Stopped, UsageError
from stages.flow.compute_targets import TargetWork, compute_targets, remove_target_cache
from stages.flow.crf_engine import choose_engine, record_engine
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.index_lookup import check_same_images
from stages.flow.item_arrays import includes_background
from stages.flow.packages import prepare_crf
from stages.kernels.cell_pairs import compute_smallest_map_size
from stages.nets.net_files import describe_net
from stages.nets.registry import build_backbone
from stages.shards import Item, Run, check_same_classes, extract_request
from stages.train_aff.config import IrnConfig, PsaConfig
from stages.train_aff.workers import METHODS, LabelWork, decompress_label
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

_MAX_GPU_PROCESSES = 4  # that compute labels on one GPU: some decode and resize images while another uses the GPU


def run_psa(config: PsaConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Train PSA's AffinityNet on `--cams`. Raises UsageError, MissingInput, BadData, Unavailable, as `train` does."""
    return _run_method("psa", config, inputs, output, stop, report)


def run_irn(config: IrnConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Train IRNet on `--cams`. Raises UsageError, MissingInput, BadData, Unavailable, as `train` does."""
    return _run_method("irn", config, inputs, output, stop, report)


def _run_method(method: str, config: Any, inputs: Inputs, output: Output, stop: Stop, report: Report) -> Summary:
    """Compute the labels of all images, or load them from the cache, and train the network on them."""
    output.check_not_folder()
    engine = choose_engine(config.engine, resolve_device(config.device))
    if not output.dry_run:
        prepare_crf(report, engine)
    report.start_phase("reading the index")
    index, cams = Run(inputs.paths, "index"), Run([inputs.require("cams")], "cams")
    check_same_classes((str(index.first.path), index.classes), (str(cams.first.path), cams.classes))
    check_same_images(index, cams)
    if includes_background(cams.first):
        raise BadData("the CAMs include a background, but train-aff adds its own at two levels",
                      "Pass a run of `wsss cams` that was not refined with a background", where=str(cams.first.path))
    report, requested_device, config = mute_unless_main_process(report), config.device, resolve_settings(config)
    weights = inputs.named.get("weights")
    entry = build_training_provenance("train-aff", method, config, {
        "index": index.digest, "cams": cams.digest, **compute_weights_digest(weights)})
    entry["config"] = record_engine(entry["config"], engine)
    if summary := try_skip_training(entry, output, report):
        if summary.num_up_to_date:
            remove_target_cache(output)
        return summary
    report_rejected_images(index, report)
    torch.manual_seed(config.seed)
    net = METHODS[method].NET_CLASS(build_backbone(config.net, stride=config.stride or None), config.radius)
    _check_crop(config, net.stride)
    view = METHODS[method].build_view_settings(config)
    initial = initialise_net(net, config, weights, report)
    net.mean, net.std = resolve_input_normalisation(net, config, weights)
    view = replace(view, mean=net.mean, std=net.std)
    label_device = requested_device if ":" in requested_device else config.device
    labels = _compute_labels(method, METHODS[method].select_label_settings(config, net), config.max_side, index,
                             cams, inputs, (engine, label_device), config.threads, output, stop, report)
    samples = _LabelledSamples(method, index, labels, inputs.root, config.max_side, view, net.stride)
    require_samples(samples.labelled, f"has CAMs in {inputs.require('cams')}", str(index.first.path))
    description = describe_net(net, classes=list(index.classes), initial_weights=initial,
                               supervision=read_supervision(index), provenance=[*cams.first.provenance, entry])
    job = TrainingJob(net, partial(METHODS[method].compute_loss, config=config), samples.draw_sample_at,
                      len(samples.labelled), METHODS[method].select_fast_parameters(net), description,
                      finalise_net=_build_finaliser(METHODS[method].FINISH_TRAINING, samples, stop, report))
    summary = train(job, config, output, requested_device=requested_device, stop=stop, report=report)
    remove_target_cache(output)
    return summary


def _check_crop(config: Any, stride: int) -> None:
    """Raise UsageError if the crop does not divide into whole cells, or is too small for a pair of cells."""
    if config.crop_size % stride:
        raise UsageError(f"--crop-size {config.crop_size} is not a multiple of {stride}, the stride of the affinities",
                         f"Use for example --crop-size {max(config.crop_size // stride, 1) * stride}")
    smallest = stride * max(compute_smallest_map_size(config.radius))
    if config.crop_size < smallest:
        raise UsageError(f"--crop-size {config.crop_size} is too small for a pair of cells with --radius "
                         f"{config.radius} and a stride of {stride}",
                         f"Use --crop-size {smallest} or more, or a smaller --radius")


def _compute_labels(method: str, settings: dict[str, Any], max_side: int, index: Run, cams: Run, inputs: Inputs,
                    crf: tuple[str, str], jobs: int, output: Output, stop: Stop, report: Report) -> list[Item]:
    """Compute the labels of all images of the index that have CAMs; `crf` is its engine and device."""
    ids = tuple(item_id for shard in index.shards for item_id in shard.ids
                if item_id in cams and item_id not in shard.errors)
    work = LabelWork(method, tuple(str(shard.path) for shard in index.shards), inputs.require("cams"), inputs.root,
                     max_side, settings, *crf)
    label_settings = record_engine({**settings, "max_side": max_side}, crf[0])
    request = extract_request({"stage": "train-aff", "method": method, "config": label_settings,
                               "inputs": {"index": index.digest, "cams": cams.digest}})
    num_without_cams = sum(len(shard.ids) - len(shard.errors) for shard in index.shards) - len(ids)
    if num_without_cams:
        report.info(f"Skipping {num_without_cams} images of the index, which have no CAMs in "
                    f"{inputs.require('cams')}.")
    if not ids:
        return []
    num_processes = min(jobs, _MAX_GPU_PROCESSES) if crf[0] == "torch" and crf[1].startswith("cuda") else jobs
    return compute_targets(TargetWork("stages.train_aff.workers:LabelBuilder", work, ids, request), output,
                           jobs=num_processes, stop=stop, report=report)


def _build_finaliser(finish_training: Callable | None, samples: _LabelledSamples, stop: Stop,
                     report: Report) -> Callable[[nn.Module], None] | None:
    """Return the function that measures the trained network on the images, if the method has one.

    The function reports its progress and raises Stopped when a stop is requested.
    """
    def iterate_until_stopped() -> Iterator[Tensor]:
        for image in samples.iterate_images():
            if stop.requested:
                raise Stopped("the run was stopped after the training, while the network was measured on the images",
                              "Run the same command again to continue")
            report.advance()
            yield image

    def finalise_net(net: nn.Module) -> None:
        report.start_progress("measuring images", len(samples.labelled))
        finish_training(net, iterate_until_stopped())

    return finalise_net if finish_training else None


class _LabelledSamples:
    """Draws training samples from the images that have labels."""

    def __init__(self, method: str, index: Run, labels: list[Item], root: str | None, max_side: int,
                 view: SegmentationViewSettings, cell: int) -> None:
        sources = {item_id: source for source in open_image_sources(index, root, max_side=max_side)
                   for item_id in source.index.ids}
        self.labelled = [(sources[item.id], item) for item in labels if item.error is None]
        self.draw_sample, self.view, self.cell = METHODS[method].draw_sample, view, cell

    def draw_sample_at(self, position: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """Draw a sample: `image` (3, S, S) float32 and `label` (s, s) uint8."""
        source, item = self.labelled[position]
        image, label = self.draw_sample(source.read_image(item.id), decompress_label(item), self.cell, generator,
                                        self.view)
        return {"image": image, "label": label}

    def iterate_images(self) -> Iterator[Tensor]:
        """Yield the normalised images (3, H, W), cropped at the right and the bottom to the crop size."""
        size = self.view.crop
        for source, item in self.labelled:
            yield torch.from_numpy(normalise(source.read_image(item.id)[:size, :size], self.view.mean, self.view.std))
