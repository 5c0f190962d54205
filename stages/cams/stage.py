"""`cams`: compute class activation maps (CAMs) from an index and a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.cams.class_selection import NO_TAGS_REMEDY, parse_tags
from stages.cams.config import ClipEsConfig, CnnConfig, GradcamConfig, MctformerConfig
from stages.cams.mctformer import DEFAULT_SCALES
from stages.data.class_vocabulary import ClassWords, load_class_words, load_words_without_index
from stages.errors import BadData, UsageError
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.image_inputs import index_image_files, select_image_files, write_overlays
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import Companion, MapWork
from stages.flow.path_stream import peek_first_path
from stages.nets.classifier import ClassTokenClassifier
from stages.nets.clip import ClipSource, find_clip
from stages.nets.mctformer import MCTFORMER_HEADS, check_no_final_norm
from stages.nets.net_files import is_net_file, read_net
from stages.nets.prompt_encoding import load_templates
from stages.nets.weights import compute_weights_digest
from stages.settings import to_json_dict
from stages.shards import Shard, find_shard_files


def run_cnn(config: CnnConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the CAMs of a classifier trained by `train-cls`. Raises UsageError, BadData, MissingInput."""
    parse_tags(config.tags)
    if not config.scales:
        raise UsageError("--scales is empty", "Give at least one scale, for example --scales 1")
    net = inputs.require("net")
    _, description = read_net(net)
    if description["task"] != "classification":
        raise _build_wrong_task_error(description["task"], net)
    if config.maps == "subcategories" and not sum(description["architecture"].get("n_subcategories", ())):
        raise BadData("the network has no sub-categories",
                      "Use a network trained by `wsss train-cls subcategory`, or leave out --maps", where=net)
    if description["architecture"]["head"] == ClassTokenClassifier.head:
        raise BadData("the network classifies by its class token and has no map per class",
                      "Use `wsss cams gradcam`, or train a network with `wsss train-cls cam --pool mean`", where=net)
    if description["architecture"]["head"] in MCTFORMER_HEADS:
        raise BadData("the network is an MCTformer", "Use `wsss cams mctformer`", where=net)
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("cams", "cnn", "cams", ("index",), "stages.cams.workers:CnnWorker", config, to_json_dict(settings),
                   named={"net": net}, digests={"net": description["sha256"]}, root=inputs.root,
                   shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads)
    return run_map_stage(work, inputs, output, stop=stop, report=report)


def run_mctformer(config: MctformerConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the CAMs of a network of `train-cls mctformer`. Raises UsageError, BadData, MissingInput."""
    parse_tags(config.tags)
    net = inputs.require("net")
    _, description = read_net(net)
    version = MCTFORMER_HEADS.get(description["architecture"].get("head", ""))
    if description["task"] != "classification" or version is None:
        raise BadData("the network is not an MCTformer", "Use a network trained by `wsss train-cls mctformer`",
                      where=net)
    check_no_final_norm(description["architecture"], net)
    if version == "v1" and config.map == "patch":
        raise UsageError("--map patch needs a patch classifier, which MCTformer v1 does not have",
                         "Use --map attention, or a network of version v2 or plus")
    config = replace(config, scales=config.scales or DEFAULT_SCALES[version])
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("cams", "mctformer", "cams", ("index",), "stages.cams.workers:MctformerWorker", config,
                   to_json_dict(settings), named={"net": net}, digests={"net": description["sha256"]}, root=inputs.root,
                   shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads)
    return run_map_stage(work, inputs, output, stop=stop, report=report)


def run_gradcam(config: GradcamConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write Grad-CAMs of a network of `train-cls`, or of a timm or torchvision classifier with `--weights`."""
    parse_tags(config.tags)
    if not config.scales:
        raise UsageError("--scales is empty", "Give at least one scale, for example --scales 1")
    net, weights = inputs.require("net"), inputs.named.get("weights")
    if weights is None:
        if Path(net).is_file() and not is_net_file(net):
            raise BadData("the file is not a network trained by wsss",
                          "Pass weights of other programs with --weights, and the network's name with --net", where=net)
        _, description = read_net(net)
        if description["task"] != "classification":
            raise _build_wrong_task_error(description["task"], net)
        digests = {"net": description["sha256"]}
    elif config.layer:
        digests = {"net": net, **compute_weights_digest(weights)}
    else:
        raise UsageError("--layer is missing, which --weights needs",
                         "Name the layer whose feature maps are weighted, for example --layer layer4")
    settings = replace(config, device=resolve_device(config.device))
    named = {"net": net, "weights": weights}
    work = MapWork("cams", "gradcam", "cams", ("index",), "stages.cams.workers:GradcamWorker", config,
                   to_json_dict(settings), named=named, digests=digests, root=inputs.root, shard_size=config.shard_size,
                   batch_size=config.batch_size, threads=config.threads)
    return run_map_stage(work, inputs, output, stop=stop, report=report)


def run_clip_es(config: ClipEsConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the CAMs of CLIP-ES, and with `--save-raw` also those before refinement.

    Raises UsageError, BadData, Unavailable.
    """
    rule, _ = parse_tags(config.tags)
    if not config.scales:
        raise UsageError("--scales is empty", "Give at least one scale, for example --scales 1")
    clip = find_clip(inputs.named.get("clip"), inputs.named.get("weights"))
    paths, files = select_image_files(inputs.paths)
    if files and rule == "index":
        raise UsageError("image files have no tags", NO_TAGS_REMEDY)
    if files:
        words = load_words_without_index(config.names, as_released=config.as_released)
        index = index_image_files(files, ("background", *words.names), output)
        if index is None:
            report.info(f"Would compute CAMs of {len(files)} image files.")
            return Summary()
        paths = [str(index)]
    else:
        first, paths = peek_first_path(paths)
        classes = Shard(find_shard_files(first)[0], ("index",)).classes if first else ("background",)
        words = load_class_words(config.names, classes, as_released=config.as_released)
    work = _build_clip_work(config, inputs, clip, words, report)
    summary = run_map_stage(work, replace(inputs, paths=paths), output, stop=stop, report=report)
    if files and not output.dry_run:
        write_overlays(output, "cams", report)
    return summary


def _build_clip_work(config: ClipEsConfig, inputs: Inputs, clip: ClipSource, words: ClassWords,
                     report: Report) -> MapWork:
    """Build the work with every setting resolved, and report the choices that were made."""
    for note in (*clip.notes, *words.notes):
        report.info(note)
    if clip.is_resnet:
        if config.affinity != "none":
            report.info("The CAMs are not refined: a ResNet has no attention between patches. Use a ViT for --clip, "
                        "or refine the CAMs with wsss refine.")
        config = replace(config, affinity="none", pooling="attention")
    config = replace(config, box_mask=config.effective_box_mask)
    device = resolve_device(config.device)
    batch_size = config.batch_size or (1 if device == "cpu" else 16)
    recorded: Mapping[str, Any] = {
        **to_json_dict(config), "device": device, "batch_size": batch_size, "clip": clip.name,
        "words": words.to_json_dict(), "template": list(load_templates(config.template)),
        "box_threshold": _select_box_threshold(config, words)}
    raw_run = inputs.named.get("save_raw")
    return MapWork(
        "cams", "clip-es", "cams", ("index",), "stages.cams.workers:ClipWorker", config, recorded,
        digests=clip.compute_digests(), root=inputs.root, shard_size=config.shard_size, batch_size=batch_size,
        threads=config.threads, shared={"clip": clip, "words": words},
        companion=Companion(raw_run, {**recorded, "affinity": "none"}) if raw_run else None)


def _build_wrong_task_error(task: str, net: str) -> BadData:
    return BadData(f"the network was trained for {task}, not for classification",
                   "Use a network trained by `wsss train-cls`", where=net)


def _select_box_threshold(config: ClipEsConfig, words: ClassWords) -> float:
    if config.box_threshold is not None:
        return config.box_threshold
    return 0.7 if words.source == "coco" else 0.4
