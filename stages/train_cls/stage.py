"""`train-cls`: train a classifier on image tags; `cams` computes its class activation maps."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from stages.data.augment import IMAGENET_MEAN, IMAGENET_STD, ClassificationViewSettings, sample_classification_view
from stages.data.image_source import open_image_sources
from stages.errors import BadData, UsageError
from stages.flow.execution import Inputs, Output, Report, Stop, Summary, check_picture_path
from stages.flow.index_lookup import check_same_images, has_same_tags
from stages.flow.mask_findings import report_contradictions
from stages.flow.picture_output import report_escapes, write_pictures
from stages.nets.class_token_backbone import ClassTokenBackbone
from stages.nets.classifier import Classifier, ClassTokenClassifier, SubcategoryClassifier
from stages.nets.mctformer import NO_FINAL_NORM, MCTformer
from stages.nets.net_files import describe_net
from stages.nets.registry import build_backbone
from stages.shards import Run, check_same_classes
from stages.train_cls.collapse import CollapseMonitor, build_collapse_hint
from stages.train_cls.subcategory import build_subcategory_labels
from stages.train_cls.workers import PairedSamples
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

METHODS = {"cam": "stages.train_cls.cam", "mixup": "stages.train_cls.mixup", "fmix": "stages.train_cls.fmix",
           "manifold-mixup": "stages.train_cls.manifold_mixup", "subcategory": "stages.train_cls.subcategory",
           "mctformer": "stages.train_cls.mctformer", "csd": "stages.train_cls.csd"}
TRUTH = "truth"


def run(method: str, config: Any, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Train a classifier on the tags of an index.

    Raises UsageError, MissingInput, BadData, and whatever `train` raises.
    """
    output.check_not_folder()
    report.start_phase("reading the index")
    index = Run(inputs.paths, "index")
    report, requested_device, config = mute_unless_main_process(report), config.device, resolve_settings(config)
    weights = inputs.named.get("weights")
    secondary = _open_secondary_inputs(method, config, inputs)
    clusters, masks = secondary.get("clusters"), secondary.get("masks")
    digests = {"index": index.digest, **compute_weights_digest(weights),
               **{name: run.digest if run else TRUTH for name, run in secondary.items()}}
    entry = build_training_provenance("train-cls", method, config, digests)
    if _is_mctformer(method, config):
        entry["config"] |= NO_FINAL_NORM  # older versions had a final norm: their networks count as other settings
    if summary := try_skip_training(entry, output, report):
        return summary
    if len(index.classes) < 2:
        raise BadData("the index has no classes", "Make it again with tags (see `wsss index --help`)",
                      where=str(index.first.path))
    torch.manual_seed(config.seed)
    net = _build_net(method, config, len(index.classes) - 1, clusters)
    initial = initialise_net(net, config, weights, report)
    mean, std = resolve_input_normalisation(net, config, weights)
    samples = _Samples(index, inputs.root, config, mean, std, clusters)
    report_rejected_images(index, report)
    if samples.num_skipped:
        report.info(f"Skipping {samples.num_skipped} images whose tags are unknown.")
    require_samples(samples.labelled_images, "of the index has tags", str(index.first.path))
    draw = _pair_samples(samples, index, secondary, config, mean, report).draw if method == "csd" else samples.draw
    net.mean, net.std = mean, std
    supervision = read_supervision(index) if masks or method != "csd" else "truth (full supervision of what is pasted)"
    description = describe_net(net, classes=list(index.classes), initial_weights=initial, supervision=supervision,
                               provenance=[*(masks or clusters or index).first.provenance, entry])
    method_module = importlib.import_module(METHODS[method])
    job = TrainingJob(net, partial(method_module.loss, config=config), draw, len(samples.labelled_images),
                      list(net.head_parameters()), description,
                      CollapseMonitor(config.epochs, build_collapse_hint(config)),
                      summarise_counts=getattr(method_module, "summarise_counts", None))
    return train(job, config, output, requested_device=requested_device, stop=stop, report=report)


def preview(config: Any, inputs: Inputs, output: Output, num_pairs: int, *, report: Report) -> Summary:
    """Write a contact sheet of `num_pairs` pairs as `csd` pastes them, without training. Raises as `run` does."""
    check_picture_path(output.path)
    output.check_not_folder()
    index, secondary = Run(inputs.paths, "index"), _open_secondary_inputs("csd", config, inputs)
    mean = config.mean or IMAGENET_MEAN
    samples = _Samples(index, inputs.root, config, mean, config.std or IMAGENET_STD, None)
    require_samples(samples.labelled_images, "of the index has tags", str(index.first.path))
    sheet = _pair_samples(samples, index, secondary, config, mean, report).draw_sheet(num_pairs)
    if output.dry_run:
        report.info(f"Would draw {output.path}")
        return Summary()
    write_pictures(output.path, [sheet])
    report_escapes(index.classes[1:], report)
    report.print_path(output.path)
    return Summary(num_written=1)


def _open_secondary_inputs(method: str, config: Any, inputs: Inputs) -> dict[str, Run | None]:
    """Return the runs that a method reads besides the index, by name; None for masks that are the index's own."""
    if method == "subcategory":
        return {"clusters": Run([inputs.require("clusters")], "clusters")}
    if method != "csd":
        return {}
    masks = inputs.require("masks")
    runs = {"masks": None if masks == TRUTH else Run([masks], "masks")}
    return {**runs, "cooc": Run([inputs.require("cooc")], "cooc")} if config.resampling == "cooc" else runs


def _pair_samples(samples: _Samples, index: Run, secondary: dict[str, Run | None], config: Any, mean: tuple,
                  report: Report) -> PairedSamples:
    """Return the samples with pairs, and report which images can't be paired."""
    for secondary_run in secondary.values():
        if secondary_run:
            check_same_classes((str(index.first.path), index.classes),
                               (str(secondary_run.first.path), secondary_run.classes))
            check_same_images(index, secondary_run)
    if secondary["masks"] is None:
        report_contradictions(index.shards, report)
    cooc = secondary.get("cooc")
    if cooc and cooc.first.index_digest != index.first.digest and not has_same_tags(index, cooc):
        report.info(f"warning: {cooc.first.path} was made from a different index than {index.first.path}.")
    paired_samples = PairedSamples(samples, index, secondary["masks"], cooc, config, mean)
    for warning in paired_samples.warnings:
        report.info(warning)
    return paired_samples


def _build_net(method: str, config: Any, num_classes: int, clusters: Run | None) -> nn.Module:
    if _is_mctformer(method, config):
        return _build_mctformer(config, num_classes)
    backbone = build_backbone(config.net, stride=config.stride or None)
    if getattr(config, "pool", "mean") == "class-token":
        return ClassTokenClassifier(backbone, num_classes, dropout=config.dropout)
    if clusters is None:
        return Classifier(backbone, num_classes, dropout=config.dropout)
    clusters_per_class = clusters.first.read_root("n_clusters")[1:].tolist()
    if not any(clusters_per_class):
        raise BadData("no class has a cluster",
                      "Run `wsss features` on images that have a class, then `wsss cluster`",
                      where=str(clusters.first.path))
    return SubcategoryClassifier(backbone, num_classes, clusters_per_class, dropout=config.dropout)


def _is_mctformer(method: str, config: Any) -> bool:
    return getattr(config, "base", method) == "mctformer"


def _build_mctformer(config: Any, num_classes: int) -> MCTformer:
    """Return the network of the settings. Raises UsageError for settings that its version or depth does not allow."""
    backbone = ClassTokenBackbone(config.net, num_classes, stride=config.stride or None, drop_path=config.drop_path,
                                  position_size=config.position_size)
    net = MCTformer(backbone, config.version)
    backbone.exact_positions = not config.as_released
    cells = -(-config.crop_size // net.stride)
    if config.as_released and config.version == "plus" and backbone.grid != (cells, cells):
        raise UsageError("--as-released --version plus: position embeddings are not resized in training, but there are "
                         f"{backbone.grid[0]} x {backbone.grid[1]} of them for crops of {cells} x {cells} patches",
                         f"Use --position-size {cells * net.stride}")
    if getattr(config, "csd_maps", "") == "patch-logits" and config.version == "v1":
        raise UsageError("--csd-maps patch-logits: MCTformer v1 has no patch classifier",
                         "Use --csd-maps refined, or --version v2")
    depth = backbone.depth
    if getattr(config, "csd_layers", 1) > depth:
        raise UsageError(f"--csd-layers {config.csd_layers}: the network has {depth} layers", f"Use 1 to {depth}")
    return net


def _read_subcategory_labels(clusters: Run, index: Run) -> dict[str, np.ndarray]:
    """Return the labels (S,) of each image of the clusters, by id. Raises BadData when the classes differ."""
    check_same_classes((str(index.first.path), index.classes), (str(clusters.first.path), clusters.classes))
    shard = clusters.first
    labels = build_subcategory_labels(shard.read_root("assignment"), shard.read_root("n_clusters"))
    return dict(zip(shard.ids, labels, strict=True))


class _Samples:
    """Draw augmented views of the images whose tags are known."""

    def __init__(self, index: Run, root: str | None, config: Any, mean: tuple, std: tuple,
                 clusters: Run | None) -> None:
        self.sources = open_image_sources(index, root, max_side=config.max_side)
        usable = [(source, item_id) for source in self.sources for item_id in source.index.ids
                  if item_id not in source.index.errors]
        self.labelled_images = [(source, item_id) for source, item_id in usable
                                if source.read_labels(item_id) is not None]
        self.num_skipped = len(usable) - len(self.labelled_images)
        self.subcategories = _read_subcategory_labels(clusters, index) if clusters else {}
        missing_id = next((item_id for _, item_id in self.labelled_images
                           if clusters and item_id not in self.subcategories), None)
        if missing_id is not None and clusters:
            raise BadData(f"the clusters do not contain {missing_id} of {index.first.path}",
                          "Run `wsss features` and `wsss cluster` on this index, and pass the result as --clusters",
                          where=str(clusters.first.path))
        self.num_classes = len(index.classes) - 1
        self.view = ClassificationViewSettings(
            **config.view, long_side=config.long_side, mean=mean, std=std, area=config.crop_area,
            rand_augment=config.rand_augment, erase=config.erase)

    def draw(self, position: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Return one sample: `image` (3, S, S) float32, `labels` (C,) in {0, 1}, and `subcategories` (S,) if any."""
        source, item_id = self.labelled_images[position]
        labels = np.zeros(self.num_classes, dtype=np.uint8)
        for class_id in source.read_labels(item_id):
            labels[class_id - 1] = 1
        subcategories = {"subcategories": self.subcategories[item_id]} if self.subcategories else {}
        image = sample_classification_view(source.read_image(item_id), generator, self.view)
        return {"image": image, "labels": labels, **subcategories}
