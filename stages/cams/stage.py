"""`cams`: an index and a network to class activation maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.cams.config import ClipEsConfig, CnnConfig, GradcamConfig, MctformerConfig
from stages.cams.mctformer import SCALES
from stages.cams.tags import parse_tags
from stages.data.class_words import ClassWords, class_words, words_alone
from stages.errors import BadData, UsageError
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.map_loop import run_map
from stages.flow.pictures import image_files, index_of_files, write_pictures
from stages.flow.stream import peeked
from stages.flow.work import Beside, MapWork
from stages.nets.classifier import ClassTokenClassifier
from stages.nets.clip import ClipSource, find_clip
from stages.nets.files import is_net, read_net
from stages.nets.mctformer import MCTFORMERS, check_description
from stages.nets.prompts import templates_of
from stages.nets.weights import weights_digest
from stages.settings import as_plain
from stages.shards import Shard, expand


def run_cnn(config: CnnConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the maps of a classifier trained by `train-cls`. Raises UsageError, BadData, MissingInput."""
    parse_tags(config.tags)
    if not config.scales:
        raise UsageError("--scales is empty", "give for example --scales 1")
    net = inputs.require("net")
    _, description = read_net(net)
    if description["task"] != "classification":
        raise BadData(f"is a net for {description['task']}, not a classifier", "give a net of train-cls", where=net)
    if config.maps == "subcategories" and not sum(description["architecture"].get("n_subcategories", ())):
        raise BadData("is a net without sub-categories", "give one of train-cls subcategory, or leave out --maps",
                      where=net)
    if description["architecture"]["head"] == ClassTokenClassifier.head:
        raise BadData("is a classifier of the class token, which has no map for each class",
                      "give it to wsss cams gradcam, or train one by train-cls cam --pool mean", where=net)
    if description["architecture"]["head"] in MCTFORMERS:
        raise BadData("is an MCTformer", "give it to wsss cams mctformer", where=net)
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("cams", "cnn", "cams", ("index",), "stages.cams.workers:CnnWorker", config, as_plain(settings),
                   named={"net": net}, digests={"net": description["sha256"]}, root=inputs.root,
                   shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads)
    return run_map(work, inputs, output, stop=stop, report=report)


def run_mctformer(config: MctformerConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the maps of a net of `train-cls mctformer`. Raises UsageError, BadData, MissingInput."""
    parse_tags(config.tags)
    net = inputs.require("net")
    _, description = read_net(net)
    version = MCTFORMERS.get(description["architecture"].get("head", ""))
    if description["task"] != "classification" or version is None:
        raise BadData("is no MCTformer", "give a net of wsss train-cls mctformer", where=net)
    check_description(description["architecture"], net)
    if version == "v1" and config.map == "patch":
        raise UsageError("--map patch: an MCTformer v1 has no patch classifier", "give --map attention, or a net of v2")
    config = replace(config, scales=config.scales or SCALES[version])
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("cams", "mctformer", "cams", ("index",), "stages.cams.workers:MctformerWorker", config,
                   as_plain(settings), named={"net": net}, digests={"net": description["sha256"]}, root=inputs.root,
                   shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads)
    return run_map(work, inputs, output, stop=stop, report=report)


def run_gradcam(config: GradcamConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write Grad-CAMs of a net of `train-cls`, or of a classifier of timm or torchvision with `--weights`."""
    parse_tags(config.tags)
    if not config.scales:
        raise UsageError("--scales is empty", "give for example --scales 1")
    net, weights = inputs.require("net"), inputs.named.get("weights")
    if weights is None:
        if Path(net).is_file() and not is_net(net):
            raise BadData("is no net of wsss", "give weights of others by --weights, and the network's name by --net",
                          where=net)
        _, description = read_net(net)
        if description["task"] != "classification":
            raise BadData(f"is a net for {description['task']}, not a classifier", "give a net of train-cls", where=net)
        digests = {"net": description["sha256"]}
    elif config.layer:
        digests = {"net": net, **weights_digest(weights)}
    else:
        raise UsageError("--layer is missing", "name the layer whose maps are weighed")
    settings = replace(config, device=resolve_device(config.device))
    named = {"net": net, "weights": weights}
    work = MapWork("cams", "gradcam", "cams", ("index",), "stages.cams.workers:GradcamWorker", config,
                   as_plain(settings), named=named, digests=digests, root=inputs.root, shard_size=config.shard_size,
                   batch_size=config.batch_size, threads=config.threads)
    return run_map(work, inputs, output, stop=stop, report=report)


def run_clip_es(config: ClipEsConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the maps of CLIP-ES, with `--save-raw` the unrefined ones too. Raises UsageError, BadData, Unavailable."""
    rule, _ = parse_tags(config.tags)
    if not config.scales:
        raise UsageError("--scales is empty", "give for example --scales 1")
    clip = find_clip(inputs.named.get("clip"), inputs.named.get("weights"))
    paths, files = image_files(inputs.paths)
    if files and rule == "index":
        raise UsageError("image files have no tags", "give --tags predicted:0.5 or all")
    if files:
        words = words_alone(config.names, as_released=config.as_released)
        index = index_of_files(files, ("background", *words.names), output)
        if index is None:
            report.tell(f"would map {len(files)} image files")
            return Summary()
        paths = [str(index)]
    else:
        first, paths = peeked(paths)
        classes = Shard(expand(first)[0], ("index",)).classes if first else ("background",)
        words = class_words(config.names, classes, as_released=config.as_released)
    work = _clip_work(config, inputs, clip, words, report)
    summary = run_map(work, replace(inputs, paths=paths), output, stop=stop, report=report)
    if files and not output.dry_run:
        write_pictures(output, "cams", report)
    return summary


def _clip_work(config: ClipEsConfig, inputs: Inputs, clip: ClipSource, words: ClassWords, report: Report) -> MapWork:
    """Return the work with every setting resolved, and tell what was chosen."""
    for note in (*clip.notes, *words.notes):
        report.tell(note)
    if clip.is_resnet:
        if config.affinity != "none":
            report.tell("a ResNet has no attention between patches: the maps are not refined")
        config = replace(config, affinity="none", pooling="attention")
    config = replace(config, box_mask=config.masked_by_boxes)
    device = resolve_device(config.device)
    size = config.batch_size or (1 if device == "cpu" else 16)
    plain: Mapping[str, Any] = {
        **as_plain(config), "device": device, "batch_size": size, "clip": clip.name, "words": words.as_plain(),
        "template": list(templates_of(config.template)), "box_threshold": _box_threshold(config, words)}
    raw = inputs.named.get("save_raw")
    return MapWork(
        "cams", "clip-es", "cams", ("index",), "stages.cams.workers:ClipWorker", config, plain,
        digests=clip.digests(), root=inputs.root, shard_size=config.shard_size, batch_size=size,
        threads=config.threads, shared={"clip": clip, "words": words},
        beside=Beside(raw, {**plain, "affinity": "none"}) if raw else None)


def _box_threshold(config: ClipEsConfig, words: ClassWords) -> float:
    if config.box_threshold is not None:
        return config.box_threshold
    return 0.7 if words.source == "coco" else 0.4
