"""`train-aff`: class activation maps to a network that tells which neighbouring cells belong together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.data.augment import SegmentationView, normalise
from stages.data.source import sources_of
from stages.errors import BadData, Stopped, UsageError
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.maps import includes_background
from stages.flow.packages import need_pydensecrf
from stages.flow.prepared import Preparation, drop_kept, prepared
from stages.kernels.pairs import smallest_map
from stages.nets.files import describe_net
from stages.nets.registry import build_backbone
from stages.shards import Item, Run, request_of, same_classes
from stages.train_aff.config import IrnConfig, PsaConfig
from stages.train_aff.workers import METHODS, LabelWork, unpacked
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


def run_psa(config: PsaConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Train PSA's AffinityNet on `--cams`. Raises UsageError, MissingInput, BadData, Unavailable, as `train` does."""
    return _run("psa", config, inputs, output, stop, report)


def run_irn(config: IrnConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Train IRNet on `--cams`. Raises UsageError, MissingInput, BadData, Unavailable, as `train` does."""
    return _run("irn", config, inputs, output, stop, report)


def _run(method: str, config: Any, inputs: Inputs, output: Output, stop: Stop, report: Report) -> Summary:
    need_pydensecrf()
    output.check_file()
    index, cams = Run(inputs.paths, "index"), Run([inputs.require("cams")], "cams")
    same_classes((str(index.first.path), index.classes), (str(cams.first.path), cams.classes))
    if includes_background(cams.first):
        raise BadData("its maps include a background, which is added at two levels here", "give a run of wsss cams",
                      where=str(cams.first.path))
    report, ordinal, config = heard(report), config.device, resolved(config)
    weights = inputs.named.get("weights")
    entry = training_entry("train-aff", method, config,
                           {"index": index.digest, "cams": cams.digest, **weights_digest(weights)})
    if answer := without_training(entry, output, report):
        if answer.up_to_date:
            drop_kept(output)
        return answer
    tell_refused(index, report)
    torch.manual_seed(config.seed)
    net = METHODS[method].NET(build_backbone(config.net, stride=config.stride or None), config.radius)
    _check_crop(config, net.stride)
    view = METHODS[method].view_of(config)
    initial = start_from(net, config, weights, report)
    net.mean, net.std = input_statistics(net, config, weights)
    view = replace(view, mean=net.mean, std=net.std)
    labels = _labels(method, METHODS[method].label_settings(config, net), index, cams, inputs, config.threads, output,
                     stop, report)
    samples = _Samples(method, index, labels, inputs.root, view, net.stride)
    at_least_one(samples.chosen, f"has maps in {inputs.require('cams')}", str(index.first.path))
    description = describe_net(net, classes=list(index.classes), initial_weights=initial,
                               supervision=supervision_of(index), provenance=[*cams.first.provenance, entry])
    job = Job(net, partial(METHODS[method].loss, config=config), samples.draw, len(samples.chosen),
              METHODS[method].fast_parameters(net), description,
              finish=_measuring(METHODS[method].MEASURE, samples, stop, report))
    summary = train(job, config, output, ordinal=ordinal, stop=stop, report=report)
    drop_kept(output)
    return summary


def _check_crop(config: Any, stride: int) -> None:
    """Raise UsageError for a crop that is not cut into whole cells, or holds no pair of them to learn from."""
    if config.crop_size % stride:
        raise UsageError(f"--crop-size {config.crop_size} is no multiple of {stride}, the stride of the affinities")
    smallest = stride * max(smallest_map(config.radius))
    if config.crop_size < smallest:
        raise UsageError(f"--crop-size {config.crop_size} holds no pair of cells at --radius {config.radius} and the "
                         f"stride {stride} of the affinities", f"give {smallest} or more, or a smaller --radius")


def _labels(method: str, settings: dict[str, Any], index: Run, cams: Run, inputs: Inputs, jobs: int, output: Output,
            stop: Stop, report: Report) -> list[Item]:
    """Return the labels of all images of the index that have maps."""
    ids = tuple(item_id for shard in index.shards for item_id in shard.ids
                if item_id in cams and item_id not in shard.errors)
    work = LabelWork(method, tuple(str(shard.path) for shard in index.shards), inputs.require("cams"), inputs.root,
                     settings)
    request = request_of({"stage": "train-aff", "method": method, "config": settings,
                          "inputs": {"index": index.digest, "cams": cams.digest}})
    without = sum(len(shard.ids) - len(shard.errors) for shard in index.shards) - len(ids)
    if without:
        report.tell(f"{without} images of the index have no maps in {inputs.require('cams')} and are left out")
    if not ids:
        return []
    return prepared(Preparation("stages.train_aff.workers:LabelMaker", work, ids, request), output, jobs=jobs,
                    stop=stop, report=report)


def _measuring(measure: Callable | None, samples: _Samples, stop: Stop,
               report: Report) -> Callable[[nn.Module], None] | None:
    """Return what a method does with the trained net and the images, where it does anything; it raises Stopped."""
    def heeded() -> Iterator[Tensor]:
        for image in samples.whole():
            if stop.requested:
                raise Stopped("stopped after the training, while the network was measured on the images",
                              "run the same command again to go on")
            report.advance()
            yield image

    def measured(net: nn.Module) -> None:
        report.begin("measured images", len(samples.chosen))
        measure(net, heeded())

    return measured if measure else None


class _Samples:
    """Draws views of the images that have labels."""

    def __init__(self, method: str, index: Run, labels: list[Item], root: str | None, view: SegmentationView,
                 cell: int) -> None:
        sources = {item_id: source for source in sources_of(index, root) for item_id in source.index.ids}
        self.chosen = [(sources[item.id], item) for item in labels if item.error is None]
        self.sample, self.view, self.cell = METHODS[method].sample, view, cell

    def draw(self, position: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """Return one sample: `image` (3, S, S) float32 and `label` (s, s) uint8."""
        source, item = self.chosen[position]
        image, label = self.sample(source.image(item.id), unpacked(item), self.cell, generator, self.view)
        return {"image": image, "label": label}

    def whole(self) -> Iterator[Tensor]:
        """Yield the images (3, H, W), normalised, cut at the right and the bottom to what the network saw at once."""
        size = self.view.crop
        for source, item in self.chosen:
            yield torch.from_numpy(normalise(source.image(item.id)[:size, :size], self.view.mean, self.view.std))
