"""`cams`: compute class activation maps (CAMs) from an index and a network."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.cams.class_selection import IMAGE_FILE_TAGS, check_selection, get_best_threshold, resolve_selection
from stages.cams.config import ClipEsConfig, CnnConfig, ExcelConfig, GradcamConfig, MctformerConfig
from stages.cams.mctformer import DEFAULT_SCALES
from stages.data.class_names import read_class_names
from stages.data.class_vocabulary import ClassWords, load_class_words, load_words_without_index
from stages.data.words_option import parse_words_option
from stages.errors import BadData, Unavailable, UsageError
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.image_inputs import index_image_files, select_inputs
from stages.flow.image_pictures import write_pictures
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import Companion, MapWork
from stages.flow.path_stream import peek_first_path
from stages.flow.text_centres import load_text_centres, parse_text_shift
from stages.nets.classifier import ClassTokenClassifier
from stages.nets.clip import ClipSource, find_clip
from stages.nets.library_classifier import read_imagenet_classes
from stages.nets.mctformer import MCTFORMER_HEADS, check_no_final_norm
from stages.nets.net_description import read_verified_description
from stages.nets.net_files import is_net_file
from stages.nets.precision import resolve_precision
from stages.nets.prompt_encoding import load_templates
from stages.nets.weights import compute_weights_digest
from stages.settings import to_json_dict
from stages.shards import Shard, find_shard_files

_DEFAULT_FOLDER = "cams"  # of image files


def run_cnn(config: CnnConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the CAMs of a classifier trained by `train-cls`. Raises UsageError, BadData, MissingInput."""
    _check_settings(config)
    net = inputs.require("net")
    inputs, output, files = select_inputs(inputs, output, "cams cnn", _DEFAULT_FOLDER, report)
    description = _read_classifier(net)
    work = build_cnn_work(config, net, description, root=inputs.root, has_image_files=bool(files))
    return _run_work(work, inputs, files, tuple(description["classes"]), output, stop, report)


def build_cnn_work(config: CnnConfig, net: str, description: Mapping[str, Any], *, root: str | None = None,
                   has_image_files: bool) -> MapWork:
    """Build the work of `cams cnn` for the network file `net`. Raises UsageError, BadData, Unavailable."""
    _check_settings(config)
    if config.maps == "subcategories" and not sum(description["architecture"].get("n_subcategories", ())):
        raise BadData("the network has no sub-categories",
                      "Use a network trained by `wsss train-cls subcategory`, or leave out --maps", where=net)
    if description["architecture"]["head"] == ClassTokenClassifier.head:
        raise BadData("the network classifies by its class token and has no map per class",
                      "Use `wsss cams gradcam`, or train a network with `wsss train-cls cam --pool mean`", where=net)
    if description["architecture"]["head"] in MCTFORMER_HEADS:
        raise BadData("the network is an MCTformer", "Use `wsss cams mctformer`", where=net)
    config = resolve_selection(config, description["classes"], net, has_image_files=has_image_files)
    device = resolve_device(config.device)
    config = replace(config, precision=resolve_precision(config.precision, device))
    settings = replace(config, device=device)
    return MapWork("cams", "cnn", "cams", ("index",), "stages.cams.workers:CnnWorker", config, to_json_dict(settings),
                   named={"net": net}, digests={"net": description["sha256"]}, root=root,
                   shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads)


def run_mctformer(config: MctformerConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the CAMs of a network of `train-cls mctformer`. Raises UsageError, BadData, MissingInput."""
    check_selection(config)
    net = inputs.require("net")
    inputs, output, files = select_inputs(inputs, output, "cams mctformer", _DEFAULT_FOLDER, report)
    description = read_verified_description(net)
    work = build_mctformer_work(config, net, description, root=inputs.root, has_image_files=bool(files))
    return _run_work(work, inputs, files, tuple(description["classes"]), output, stop, report)


def build_mctformer_work(config: MctformerConfig, net: str, description: Mapping[str, Any], *, root: str | None = None,
                         has_image_files: bool) -> MapWork:
    """Build the work of `cams mctformer` for the network file `net`. Raises UsageError, BadData, Unavailable."""
    check_selection(config)
    version = MCTFORMER_HEADS.get(description["architecture"].get("head", ""))
    if description["task"] != "classification" or version is None:
        raise BadData("the network is not an MCTformer", "Use a network trained by `wsss train-cls mctformer`",
                      where=net)
    check_no_final_norm(description["architecture"], net)
    if version == "v1" and config.map == "patch":
        raise UsageError("--map patch needs a patch classifier, which MCTformer v1 does not have",
                         "Use --map attention, or a network of version v2 or plus")
    config = replace(config, scales=config.scales or DEFAULT_SCALES[version])
    config = resolve_selection(config, description["classes"], net, has_image_files=has_image_files)
    settings = replace(config, device=resolve_device(config.device))
    return MapWork("cams", "mctformer", "cams", ("index",), "stages.cams.workers:MctformerWorker", config,
                   to_json_dict(settings), named={"net": net}, digests={"net": description["sha256"]}, root=root,
                   shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads)


def run_gradcam(config: GradcamConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write Grad-CAMs of a network of `train-cls`, or of a timm or torchvision classifier with `--weights`."""
    _check_settings(config)
    net, weights, names = inputs.require("net"), inputs.named.get("weights"), inputs.named.get("names")
    inputs, output, files = select_inputs(inputs, output, "cams gradcam", _DEFAULT_FOLDER, report)
    if names and (not files or weights is None):
        owner = "the network" if weights is None else "the index"
        raise UsageError(f"--names {names} has no effect, because {owner} has class names", "Leave out --names")
    if weights is None:
        if Path(net).is_file() and not is_net_file(net):
            raise BadData("the file is not a network trained by wsss",
                          "Pass weights of other programs with --weights, and the network's name with --net", where=net)
        description = _read_classifier(net)
        digests, where, classes = {"net": description["sha256"]}, net, tuple(description["classes"])
    elif config.layer:
        digests = {"net": net, **compute_weights_digest(weights)}
        where, classes, inputs = _find_library_classes(net, weights, names, inputs, has_image_files=bool(files))
    else:
        raise UsageError("--layer is missing, which --weights needs",
                         "Name the layer whose feature maps are weighted, for example --layer layer4")
    if config.score == "auto":
        has_imagenet_names = bool(files) and weights is not None and names is None
        config = replace(config, score="softmax" if has_imagenet_names else "sigmoid")
    config = resolve_selection(config, classes, where, has_image_files=bool(files))
    work = build_gradcam_work(config, {"net": net, "weights": weights}, digests, root=inputs.root)
    return _run_work(work, inputs, files, classes, output, stop, report)


def build_gradcam_work(config: GradcamConfig, named: Mapping[str, str | None], digests: Mapping[str, str], *,
                       root: str | None = None) -> MapWork:
    """Build the work of `cams gradcam` for the network and the weights in `named`. Raises UsageError, Unavailable."""
    settings = replace(config, device=resolve_device(config.device))
    return MapWork("cams", "gradcam", "cams", ("index",), "stages.cams.workers:GradcamWorker", config,
                   to_json_dict(settings), named=named, digests=digests, root=root, shard_size=config.shard_size,
                   batch_size=config.batch_size, threads=config.threads)


def _find_library_classes(net: str, weights: str, names: str | None, inputs: Inputs, *,
                          has_image_files: bool) -> tuple[str, tuple[str, ...], Inputs]:
    """Return (what has the classes, the classes, the inputs again) for a network of timm or torchvision.

    They are those of the index or, for image files, of the file `names`, or ImageNet's if the weights are for these.
    """
    if not has_image_files:
        classes, inputs = _peek_classes(inputs)
        return "the index", classes, inputs
    if names is None:
        return "ImageNet", ("background", *read_imagenet_classes(net, weights)), inputs
    return names, ("background", *read_class_names(Path(names))[0][1:]), inputs


def _peek_classes(inputs: Inputs) -> tuple[tuple[str, ...], Inputs]:
    """Return the classes of the first shard of the index, and the inputs again."""
    first, paths = peek_first_path(inputs.paths)
    classes = Shard(find_shard_files(first)[0], ("index",)).classes if first else ("background",)
    return classes, replace(inputs, paths=paths)


def run_clip_es(config: ClipEsConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the CAMs of CLIP-ES, and with `--save-raw` also those before refinement.

    Raises UsageError, BadData, Unavailable.
    """
    _check_settings(config)
    clip = find_clip(inputs.named.get("clip"), inputs.named.get("weights"))
    inputs, output, files = select_inputs(inputs, output, "cams clip-es", _DEFAULT_FOLDER, report)
    work, inputs = build_clip_es_work(config, clip, inputs, has_image_files=bool(files), report=report)
    return _run_work(work, inputs, files, ("background", *work.shared["words"].names), output, stop, report)


def build_clip_es_work(config: ClipEsConfig, clip: ClipSource, inputs: Inputs, *, has_image_files: bool,
                       report: Report) -> tuple[MapWork, Inputs]:
    """Build the work of `cams clip-es`, and return the inputs again. Raises UsageError, BadData, Unavailable."""
    _check_settings(config)
    words, inputs = _load_words(config, inputs, has_image_files=has_image_files)
    config = resolve_selection(config, ("background", *words.names), words.source if has_image_files else "the index",
                               has_image_files=has_image_files,
                               image_file_tags="all" if inputs.named.get("words") else IMAGE_FILE_TAGS)
    return _build_clip_work(config, inputs, clip, words, report), inputs


def run_excel(config: ExcelConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the CAMs of ExCEL, and with `--save-raw` also those before refinement.

    Raises UsageError, BadData, MissingInput, Unavailable.
    """
    check_selection(config)
    clip = find_clip(inputs.named.get("clip"), inputs.named.get("weights"))
    inputs, output, files = select_inputs(inputs, output, "cams excel", _DEFAULT_FOLDER, report)
    work, inputs = build_excel_work(config, clip, inputs, has_image_files=bool(files), report=report)
    return _run_work(work, inputs, files, ("background", *work.shared["words"].names), output, stop, report)


def build_excel_work(config: ExcelConfig, clip: ClipSource, inputs: Inputs, *, has_image_files: bool,
                     report: Report) -> tuple[MapWork, Inputs]:
    """Build the work of `cams excel`, and return the inputs again.

    Raises UsageError, BadData, MissingInput, Unavailable.
    """
    mode, centres_file = parse_text_shift(config.text_shift)
    if clip.is_resnet:
        raise Unavailable(f"`wsss cams excel` changes the attention of a ViT, but {clip.name} is a ResNet",
                          "Choose a ViT with --clip, for example --clip ViT-B-16")
    words, inputs = _load_words(config, inputs, has_image_files=has_image_files)
    if len(words.names) + len(words.background if config.background_words else ()) < 2:
        raise UsageError("with a single word every map is empty, because words are compared with each other",
                         "Leave out --no-background-words, or name more classes")
    config = resolve_selection(config, ("background", *words.names), words.source if has_image_files else "the index",
                               has_image_files=has_image_files,
                               image_file_tags="all" if inputs.named.get("words") else IMAGE_FILE_TAGS)
    for note in (*clip.notes, *words.notes):
        report.info(note)
    config = replace(config, box_mask=config.effective_box_mask)
    recorded = _record_clip_settings(config, clip, words)
    shared, digests = {"clip": clip, "words": words}, clip.compute_digests()
    if centres_file is not None:
        shared |= {"centres": load_text_centres(centres_file)}
        digests["text_centres"] = hashlib.sha256(centres_file.read_bytes()).hexdigest()
        recorded["text_shift"] = f"{mode}:{centres_file.name}"
    return _build_refined_work("excel", "excel_worker:ExcelWorker", config, recorded, digests, shared, inputs), inputs


def _check_settings(config: CnnConfig | GradcamConfig | ClipEsConfig) -> None:
    """Raise UsageError for an invalid selection of classes, and for an empty list of scales."""
    check_selection(config)
    if not config.scales:
        raise UsageError("--scales is empty", "Give at least one scale, for example --scales 1")


def _load_words(config: ClipEsConfig | ExcelConfig, inputs: Inputs, *,
                has_image_files: bool) -> tuple[ClassWords, Inputs]:
    """Return the words of the classes, and the inputs again. Raises UsageError if they do not fit the index."""
    option = inputs.named.get("words")
    if option is not None and config.names != "auto":
        raise UsageError(f"--names {config.names} and --words both set the words of the classes", "Use one of them")
    if has_image_files:
        if option is not None:
            return parse_words_option(option, background="voc"), inputs
        if config.names in ("auto", "none"):
            raise UsageError("image files have no classes", 'Name them with --words "cat; dog; grass", or choose '
                             "--names voc, --names coco or a FILE.toml")
        return load_words_without_index(config.names, as_released=config.as_released), inputs
    classes, inputs = _peek_classes(inputs)
    if option is None:
        return load_class_words(config.names, classes, as_released=config.as_released), inputs
    words = parse_words_option(option, classes, background="voc")
    if words.names != classes[1:]:
        raise UsageError(f"--words names the classes {', '.join(words.names[:5])}, but those of the index are "
                         f"{', '.join(classes[1:6]) or 'none'}",
                         "Give words for exactly these: NAME = WORD, WORD; NAME = WORD")
    return words, inputs


def _run_work(work: MapWork, inputs: Inputs, files: list[Path], classes: tuple[str, ...], output: Output, stop: Stop,
              report: Report) -> Summary:
    """Run the work on shards; or on image files, for which it also writes an index and a picture of each."""
    if files:
        index = index_image_files(files, classes, output, stop, report)
        if index is None:
            report.info(f"Would compute CAMs of {len(files)} image file{'s' * (len(files) > 1)}.")
            return Summary()
        inputs = replace(inputs, paths=[str(index)])
    summary = run_map_stage(work, inputs, output, stop=stop, report=report)
    if files and not output.dry_run:
        write_pictures(output, "cams", report, stop, best_threshold=get_best_threshold(work.config))
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
    recorded = {**_record_clip_settings(config, clip, words), "box_threshold": _select_box_threshold(config, words)}
    return _build_refined_work("clip-es", "workers:ClipWorker", config, recorded, clip.compute_digests(),
                               {"clip": clip, "words": words}, inputs)


def _record_clip_settings(config: ClipEsConfig | ExcelConfig, clip: ClipSource, words: ClassWords) -> dict[str, Any]:
    """Return the settings that the provenance records, with the device, the batch size, the words and the templates."""
    device = resolve_device(config.device)
    return {**to_json_dict(config), "device": device, "batch_size": config.batch_size or (1 if device == "cpu" else 16),
            "clip": clip.name, "words": words.to_json_dict(), "template": list(load_templates(config.template))}


def _build_refined_work(method: str, worker: str, config: ClipEsConfig | ExcelConfig, recorded: Mapping[str, Any],
                        digests: Mapping[str, str], shared: Mapping[str, Any], inputs: Inputs) -> MapWork:
    """Build the work of a method that refines its CAMs; `--save-raw` has a companion for those before."""
    raw_run = inputs.named.get("save_raw")
    return MapWork(
        "cams", method, "cams", ("index",), f"stages.cams.{worker}", config, recorded, digests=digests,
        root=inputs.root, shard_size=config.shard_size, batch_size=recorded["batch_size"], threads=config.threads,
        shared=shared, companion=Companion(raw_run, {**recorded, "affinity": "none"}) if raw_run else None)


def _read_classifier(net: str) -> dict[str, Any]:
    """Return the description of a network of `train-cls`. Raises BadData for a network of another task."""
    description = read_verified_description(net)
    if description["task"] != "classification":
        raise BadData(f"the network was trained for {description['task']}, not for classification",
                      "Use a network trained by `wsss train-cls`", where=net)
    return description


def _select_box_threshold(config: ClipEsConfig, words: ClassWords) -> float:
    if config.box_threshold is not None:
        return config.box_threshold
    return 0.7 if words.source == "coco" else 0.4
