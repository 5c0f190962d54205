"""`train-cls`: image tags to a classifier whose maps the later stages refine."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from stages.data.augment import IMAGENET_MEAN, IMAGENET_STD, ClassificationView, classification_view
from stages.data.images import encode_png
from stages.data.source import sources_of
from stages.errors import BadData, UsageError
from stages.flow.execution import Inputs, Output, Report, Stop, Summary, check_picture
from stages.nets.class_tokens import ClassTokenBackbone
from stages.nets.classifier import Classifier, ClassTokenClassifier, SubcategoryClassifier
from stages.nets.files import describe_net
from stages.nets.mctformer import FINAL_NORM, MCTformer
from stages.nets.registry import build_backbone
from stages.shards import Run, same_classes
from stages.shards.disk import make_folder, replace_file
from stages.train_cls.collapse import CollapseWatch, advice_for
from stages.train_cls.subcategory import subcategory_labels
from stages.train_cls.workers import PairedSamples
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

METHODS = {"cam": "stages.train_cls.cam", "mixup": "stages.train_cls.mixup", "fmix": "stages.train_cls.fmix",
           "manifold-mixup": "stages.train_cls.manifold_mixup", "subcategory": "stages.train_cls.subcategory",
           "mctformer": "stages.train_cls.mctformer", "csd": "stages.train_cls.csd"}
TRUTH = "truth"


def run(method: str, config: Any, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Train a classifier on an index's tags. Raises UsageError, MissingInput, BadData, and what `train` raises."""
    output.check_file()
    index = Run(inputs.paths, "index")
    report, ordinal, config = heard(report), config.device, resolved(config)
    weights = inputs.named.get("weights")
    further = _further(method, config, inputs)
    clusters = further.get("clusters")
    digests = {"index": index.digest, **weights_digest(weights),
               **{name: run.digest if run else TRUTH for name, run in further.items()}}
    entry = training_entry("train-cls", method, config, digests)
    if _is_mctformer(method, config):
        entry["config"] |= FINAL_NORM  # so that a training of the time when there was one is another request
    if answer := without_training(entry, output, report):
        return answer
    if len(index.classes) < 2:
        raise BadData("has no class", "index it with tags", where=str(index.first.path))
    torch.manual_seed(config.seed)
    net = _net(method, config, len(index.classes) - 1, clusters)
    initial = start_from(net, config, weights, report)
    mean, std = input_statistics(net, config, weights)
    samples = _Samples(index, inputs.root, config, mean, std, clusters)
    tell_refused(index, report)
    if samples.skipped:
        report.tell(f"{samples.skipped} images have no known tags and are left out")
    at_least_one(samples.chosen, "has tags", str(index.first.path))
    draw = _paired(samples, index, further, config, mean, report).draw if method == "csd" else samples.draw
    net.mean, net.std = mean, std
    masks = further.get("masks")
    supervision = supervision_of(index) if masks or method != "csd" else "truth (full supervision of what is pasted)"
    description = describe_net(net, classes=list(index.classes), initial_weights=initial, supervision=supervision,
                               provenance=[*(masks or clusters or index).first.provenance, entry])
    learns = importlib.import_module(METHODS[method])
    job = Job(net, partial(learns.loss, config=config), draw, len(samples.chosen), list(net.head_parameters()),
              description, CollapseWatch(config.epochs, advice_for(config)), sum_up=getattr(learns, "sum_up", None))
    return train(job, config, output, ordinal=ordinal, stop=stop, report=report)


def preview(config: Any, inputs: Inputs, output: Output, count: int, *, report: Report) -> Summary:
    """Write a picture of `count` pairs as `csd` pastes them, and train nothing. Raises as `run` does."""
    check_picture(output.path)
    output.check_file()
    index, further = Run(inputs.paths, "index"), _further("csd", config, inputs)
    mean = config.mean or IMAGENET_MEAN
    samples = _Samples(index, inputs.root, config, mean, config.std or IMAGENET_STD, None)
    at_least_one(samples.chosen, "has tags", str(index.first.path))
    picture = _paired(samples, index, further, config, mean, report).sheet(count)
    if output.dry_run:
        report.tell(f"would draw {output.path}")
        return Summary()
    make_folder(output.path.absolute().parent)
    replace_file(output.path, encode_png(picture))
    report.finished(output.path)
    return Summary(made=1)


def _further(method: str, config: Any, inputs: Inputs) -> dict[str, Run | None]:
    """Return the further runs that a method reads, by name; None for masks that are the index's own."""
    if method == "subcategory":
        return {"clusters": Run([inputs.require("clusters")], "clusters")}
    if method != "csd":
        return {}
    masks = inputs.require("masks")
    found = {"masks": None if masks == TRUTH else Run([masks], "masks")}
    return {**found, "cooc": Run([inputs.require("cooc")], "cooc")} if config.resampling == "cooc" else found


def _paired(samples: _Samples, index: Run, further: dict[str, Run | None], config: Any, mean: tuple,
            report: Report) -> PairedSamples:
    """Return the samples with pairs, and tell what can't be paired."""
    for one in further.values():
        if one:
            same_classes((str(index.first.path), index.classes), (str(one.first.path), one.classes))
    cooc = further.get("cooc")
    if cooc and cooc.first.index_digest != index.first.digest:
        report.tell(f"{cooc.first.path} was counted on another index")
    paired = PairedSamples(samples, index, further["masks"], cooc, config, mean)
    for line in paired.told:
        report.tell(line)
    return paired


def _net(method: str, config: Any, n_classes: int, clusters: Run | None) -> nn.Module:
    if _is_mctformer(method, config):
        return _mctformer(config, n_classes)
    backbone = build_backbone(config.net, stride=config.stride or None)
    if getattr(config, "pool", "mean") == "class-token":
        return ClassTokenClassifier(backbone, n_classes, dropout=config.dropout)
    if clusters is None:
        return Classifier(backbone, n_classes, dropout=config.dropout)
    counts = clusters.first.root("n_clusters")[1:].tolist()
    if not any(counts):
        raise BadData("no class has a cluster", "make features of images that bear a class, and cluster them",
                      where=str(clusters.first.path))
    return SubcategoryClassifier(backbone, n_classes, counts, dropout=config.dropout)


def _is_mctformer(method: str, config: Any) -> bool:
    return getattr(config, "base", method) == "mctformer"


def _mctformer(config: Any, n_classes: int) -> MCTformer:
    """Return the net of the settings. Raises UsageError for settings that its version or depth does not allow."""
    backbone = ClassTokenBackbone(config.net, n_classes, stride=config.stride or None, drop_path=config.drop_path,
                                  position_size=config.position_size)
    net = MCTformer(backbone, config.version)
    backbone.exact_positions = not config.as_released
    cells = -(-config.crop_size // net.stride)
    if config.as_released and config.version == "plus" and backbone.grid != (cells, cells):
        raise UsageError(f"--as-released --version plus: positions for {backbone.grid[0]} x {backbone.grid[1]} patches "
                         f"do not fit crops of {cells} x {cells}, and its released code resizes none in training",
                         f"give --position-size {cells * net.stride}")
    if getattr(config, "csd_maps", "") == "patch-logits" and config.version == "v1":
        raise UsageError("--csd-maps patch-logits: an MCTformer v1 has no patch classifier",
                         "give --csd-maps refined, or --version v2")
    depth = backbone.depth
    if getattr(config, "csd_layers", 1) > depth:
        raise UsageError(f"--csd-layers {config.csd_layers}: the net has {depth}", f"give 1 to {depth}")
    return net


def _subcategories(clusters: Run, index: Run) -> dict[str, np.ndarray]:
    """Return the labels (S,) of each image of the clusters. Raises BadData where classes or images differ."""
    same_classes((str(index.first.path), index.classes), (str(clusters.first.path), clusters.classes))
    shard = clusters.first
    labels = subcategory_labels(shard.root("assignment"), shard.root("n_clusters"))
    return dict(zip(shard.ids, labels, strict=True))


class _Samples:
    """Draws augmented views of the images whose tags are known."""

    def __init__(self, index: Run, root: str | None, config: Any, mean: tuple, std: tuple,
                 clusters: Run | None) -> None:
        self.sources = sources_of(index, root)
        usable = [(source, item_id) for source in self.sources for item_id in source.index.ids
                  if item_id not in source.index.errors]
        self.chosen = [(source, item_id) for source, item_id in usable if source.labels(item_id) is not None]
        self.skipped = len(usable) - len(self.chosen)
        self.subcategories = _subcategories(clusters, index) if clusters else {}
        lost = next((item_id for _, item_id in self.chosen if clusters and item_id not in self.subcategories), None)
        if lost is not None and clusters:
            raise BadData("is not among the clusters", "make features and clusters of this index",
                          where=f"{clusters.first.path}: {lost}")
        self.n_classes = len(index.classes) - 1
        self.view = ClassificationView(**config.view, long_side=config.long_side, mean=mean, std=std,
                                       area=config.crop_area, rand_augment=config.rand_augment, erase=config.erase)

    def draw(self, position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return one sample: `image` (3, S, S) float32, `labels` (C,) in {0, 1}, and those of its sub-categories."""
        source, item_id = self.chosen[position]
        labels = np.zeros(self.n_classes, dtype=np.uint8)
        for class_id in source.labels(item_id):
            labels[class_id - 1] = 1
        more = {"subcategories": self.subcategories[item_id]} if self.subcategories else {}
        return {"image": classification_view(source.image(item_id), generator, self.view), "labels": labels, **more}
