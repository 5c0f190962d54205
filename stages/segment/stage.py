"""`segment`: masks of indexed images or of image files, by a trained network or by words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.data.class_vocabulary import (
    CLIP_ES_PRESETS,
    SCLIP_PRESETS,
    ClassWords,
    load_class_words,
    load_words_without_index,
)
from stages.data.words_option import find_non_latin_words, parse_words_option
from stages.errors import BadData, UsageError
from stages.flow.class_bank import check_bank_network, describe_rare_classes
from stages.flow.crf_engine import choose_engine, record_engine
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, SilentReport, Stop, Summary
from stages.flow.image_inputs import index_image_files, select_inputs
from stages.flow.image_pictures import write_pictures
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import MapWork
from stages.flow.packages import prepare_crf
from stages.flow.path_stream import peek_first_path
from stages.flow.training_images import read_training_images
from stages.nets.clip import ClipSource, find_clip, find_fragmented_words
from stages.nets.map_network import resolve_map_network
from stages.nets.net_description import read_verified_description
from stages.nets.prompt_encoding import load_templates
from stages.nets.proxy import resolve_proxy_source
from stages.nets.text_grounded import TEXT_SEGMENTATION_TASK as GROUNDED
from stages.segment.config import (
    PROTOCOLS,
    SHORT_SIDES,
    AnyWordsConfig,
    CorrclipConfig,
    GroundedConfig,
    NetConfig,
    ProxyclipConfig,
    RetrieveConfig,
    TextConfig,
    WordsConfig,
    apply_protocol,
)
from stages.settings import to_json_dict
from stages.shards import Run, Shard, find_shard_files

_DEFAULT_FOLDER = "masks"  # of image files


def run_net(config: NetConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the masks predicted by a network of `train-seg`, and with `--scores` its scores as a `cams` run."""
    _check_net_settings(config)
    net = inputs.require("net")
    inputs, output, files = select_inputs(inputs, output, "segment net", _DEFAULT_FOLDER, report)
    description = read_verified_description(net)
    work = build_net_work(config, net, description, root=inputs.root)
    if config.crf and not output.dry_run:
        prepare_crf(report, work.config_dict.get("engine", "numba"))
    return _run_work(work, inputs, files, tuple(description["classes"]), output, stop, report)


def run_retrieve(config: RetrieveConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write masks in which each region has the class of the most similar regions of a bank.

    Raises UsageError, MissingInput, BadData, Unavailable.
    """
    work = build_retrieve_work(config, inputs)
    if warning := describe_rare_classes(inputs.require("bank"), config.drop, config.neighbours):
        report.info(warning)
    return run_map_stage(work, inputs, output, stop=stop, report=report)


def build_retrieve_work(config: RetrieveConfig, inputs: Inputs) -> MapWork:
    """Build the work of `segment retrieve`. Raises UsageError, MissingInput, BadData.

    BadData if the bank was made with another network than `--net` and `--weights`.
    """
    source = resolve_map_network(inputs.require("net"), inputs.named.get("weights"))
    bank, regions = Run([inputs.require("bank")], "bank"), Run([inputs.require("regions")], "regions")
    check_bank_network(bank, source)
    settings = replace(config, device=resolve_device(config.device))
    return MapWork("segment", "retrieve", "masks", ("index",), "stages.segment.retrieve_worker:RetrieveWorker",
                   config, to_json_dict(settings),
                   named={"bank": inputs.require("bank"), "regions": inputs.require("regions")},
                   digests={**source.compute_digests(), "bank": bank.digest, "regions": regions.digest},
                   root=inputs.root, shard_size=config.shard_size, batch_size=config.batch_size,
                   threads=config.threads, shared={"net": source})


def _check_net_settings(config: NetConfig) -> None:
    """Raise UsageError for an empty list of scales."""
    if not config.scales:
        raise UsageError("--scales is empty", "List at least one scale, for example --scales 1")


def build_net_work(config: NetConfig, net: str, description: Mapping[str, Any], *, root: str | None = None) -> MapWork:
    """Build the work of `segment net` for the network file `net`. Raises UsageError, BadData, Unavailable."""
    _check_net_settings(config)
    if description["task"] == GROUNDED:
        raise BadData(f"the network was trained for {GROUNDED}, not for segmentation",
                      f"Run `wsss segment {description['architecture']['head']}` instead", where=net)
    if description["task"] != "segmentation":
        raise BadData(f"the network was trained for {description['task']}, not for segmentation",
                      "Pass a network of `wsss train-seg` with --net", where=net)
    settings = replace(config, device=resolve_device(config.device))
    engine = choose_engine(config.engine, settings.device) if config.crf else "numba"
    trained_on = description["provenance"][-1]["inputs"].get("index", "")
    return MapWork("segment", "net", "masks", ("index",), "stages.segment.workers:NetWorker", config,
                   record_engine(to_json_dict(settings), engine), named={"net": net},
                   digests={"net": description["sha256"], "net_index": trained_on},
                   root=root, shard_size=config.shard_size, batch_size=config.batch_size, threads=config.threads,
                   training_images=read_training_images(description, net))


def run_text(method: str, config: TextConfig, inputs: Inputs, output: Output, *, stop: Stop,
             report: Report) -> Summary:
    """Write the masks that a frozen CLIP predicts from words, and with `--scores` its scores as a `cams` run.

    Raises UsageError, MissingInput, BadData, Unavailable.
    """
    requested, config = config, _resolve_config(config)
    inputs, output, files = select_inputs(inputs, output, f"segment {method}", _DEFAULT_FOLDER, report)
    clip = find_clip(inputs.named.get("clip"), inputs.named.get("weights"))
    proxy = resolve_proxy_source(inputs.named.get("proxy"), inputs.named.get("proxy_weights")) if isinstance(
        config, (ProxyclipConfig, CorrclipConfig)) else None
    regions = inputs.named.get("regions")
    region_digest = {"regions": Run([regions], "regions").digest} if regions else {}
    worker = "corrclip_worker:CorrclipWorker" if method == "corrclip" else "workers:TextWorker"
    words, paths = _load_words(config, inputs.named.get("words"), inputs.paths, has_files=bool(files))
    config = _apply_short_side(config, requested, words)
    for message in (*clip.notes, *words.notes, *_describe_doubtful_words(words, clip)):
        report.info(message)
    config_dict = {**_build_config_dict(config, words), "clip": clip.name}
    work = MapWork("segment", method, "masks", ("index",), f"stages.segment.{worker}", config, config_dict,
                   named={"regions": regions},
                   digests={**clip.compute_digests(), **(proxy.compute_digests() if proxy else {}), **region_digest},
                   root=inputs.root,
                   shard_size=config.shard_size, threads=config.threads,
                   shared={"clip": clip, "words": words, "proxy": proxy})
    return _run_work(work, replace(inputs, paths=paths), files, ("background", *words.names), output, stop, report)


def run_grounded(method: str, config: GroundedConfig, inputs: Inputs, output: Output, *, stop: Stop,
                 report: Report) -> Summary:
    """Write the masks that a network of `train-text` predicts from words, and with `--scores` its scores as `cams`.

    Raises UsageError, MissingInput, BadData.
    """
    _resolve_config(config)
    net = inputs.require("net")
    inputs, output, files = select_inputs(inputs, output, f"segment {method}", _DEFAULT_FOLDER, report)
    description = read_verified_description(net)
    _check_grounded_net(method, description, net)
    work, inputs = build_grounded_work(method, config, description, inputs, has_image_files=bool(files), report=report)
    return _run_work(work, inputs, files, ("background", *work.shared["words"].names), output, stop, report)


def build_grounded_work(method: str, config: GroundedConfig, description: Mapping[str, Any], inputs: Inputs, *,
                        has_image_files: bool, report: Report) -> tuple[MapWork, Inputs]:
    """Build the work of `segment tcl` or `code`, and return the inputs again. Raises UsageError, BadData."""
    requested, config = config, _resolve_config(config)
    net = inputs.require("net")
    words, paths = _load_words(config, inputs.named.get("words"), inputs.paths, has_files=has_image_files)
    config = _apply_short_side(config, requested, words)
    clip = ClipSource(description["initial_weights"]["name"], description["architecture"]["clip"], None)
    for message in (*words.notes, *_describe_doubtful_words(words, clip)):
        report.info(message)
    trained_on = description["provenance"][-1]["inputs"].get("index", "")
    return MapWork("segment", method, "masks", ("index",), "stages.segment.workers:GroundedWorker", config,
                   _build_config_dict(config, words), named={"net": net},
                   digests={"net": description["sha256"], "net_index": trained_on}, root=inputs.root,
                   shard_size=config.shard_size, threads=config.threads, shared={"words": words},
                   training_images=read_training_images(description, net)), replace(inputs, paths=paths)


def _check_grounded_net(method: str, description: Mapping[str, Any], net: str) -> None:
    """Raise BadData unless the network was trained by this method of `train-text`."""
    if description["task"] != GROUNDED:
        raise BadData(f"the network was trained for {description['task']}, not for {GROUNDED}",
                      f"Pass a network of `wsss train-text {method}` with --net", where=net)
    head = description["architecture"]["head"]
    if head != method:
        raise BadData(f"the network was trained by `wsss train-text {head}`, not by `wsss train-text {method}`",
                      f"Run `wsss segment {head}` instead", where=net)


def _resolve_config(config: AnyWordsConfig) -> AnyWordsConfig:
    """Fill in the protocol's values. Raises UsageError for windows with gaps between them."""
    config = apply_protocol(config)
    if not 0 < int(config.stride or 0) <= int(config.window or 0):
        raise UsageError(f"--stride {config.stride} is larger than --window {config.window}, which leaves gaps between "
                         "the windows", f"Use a --stride of at most {config.window}")
    return config


def _apply_short_side(config: AnyWordsConfig, requested: WordsConfig, words: ClassWords) -> AnyWordsConfig:
    """Set the short side that goes with the preset of the class words, unless the user chose one."""
    if requested.short_side is not None:
        return config
    return replace(config, short_side=SHORT_SIDES.get(words.source, config.short_side))


def _build_config_dict(config: WordsConfig, words: ClassWords) -> dict[str, Any]:
    """Return the settings and words as the provenance records them."""
    return {**to_json_dict(config), "device": resolve_device(config.device), "words": words.to_json_dict(),
            "template": list(load_templates(config.template))}


def _load_words(config: WordsConfig, words_option: str | None, paths: Iterable[str], *,
                has_files: bool) -> tuple[ClassWords, Iterable[str]]:
    """Return the words of the classes, and the paths again, because the first one is read for its classes.

    `has_files` tells that the inputs are image files, which have no classes; then `paths` is empty.
    """
    if words_option is not None and config.names != PROTOCOLS[config.protocol].names:
        raise UsageError(f"--names {config.names} and --words both set the words of the classes", "Use one of them")
    presets = (*SCLIP_PRESETS, *CLIP_ES_PRESETS) if config.protocol in ("sclip", "corrclip") else CLIP_ES_PRESETS
    as_released = getattr(config, "as_released", False)
    if has_files:
        if words_option is not None:
            return parse_words_option(words_option), paths
        if config.names in ("auto", "none"):
            raise UsageError("image files have no classes", 'Name them with --words "cat; dog; grass", or choose '
                             f"--names {', '.join(presets)} or a FILE.toml")
        return load_words_without_index(config.names, as_released=as_released), paths
    first, paths = peek_first_path(paths)
    classes = Shard(find_shard_files(first)[0], ("index",)).classes if first else ("background",)
    if first and words_option is None and len(classes) == 1:
        raise UsageError(f"{first} has no classes", 'Name them with --words "cat; dog; grass"')
    if words_option is not None:
        return parse_words_option(words_option, classes), paths
    return load_class_words(config.names, classes, as_released=as_released, presets=presets), paths


def _describe_doubtful_words(words: ClassWords, clip: ClipSource) -> list[str]:
    """Return warnings for words in a language this CLIP was not trained on, and for words it does not know."""
    if clip.is_multilingual:
        return []
    foreign = find_non_latin_words(words)
    latin = [word for synonyms in words.classes for word in synonyms if word not in foreign]
    fragmented = find_fragmented_words(clip, latin) if words.source not in (*CLIP_ES_PRESETS, *SCLIP_PRESETS) else []
    warnings = []
    if foreign:
        warnings.append(f"The text tower of {clip.name} was trained on English, so expect poor masks for "
                        f"{_list_words(foreign)}. Use English words, or a multilingual CLIP.")
    if fragmented:
        warnings.append(f"The tokenizer of {clip.name} does not know {_list_words(fragmented)} and splits such words "
                        "into pieces. Check their spelling.")
    return warnings


def _list_words(words: Sequence[str], most: int = 5) -> str:
    """Return the first words in one line, and how many more there are."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _run_work(work: MapWork, inputs: Inputs, files: list[Path], classes: tuple[str, ...], output: Output, stop: Stop,
              report: Report) -> Summary:
    """Run the work on shards; or on image files, for which it also writes an index and a picture of each mask."""
    if files:
        index = index_image_files(files, classes, output, stop, report)
        if index is None:
            report.info(f"Would segment {len(files)} image file{'s' * (len(files) > 1)}.")
            return Summary()
        inputs = replace(inputs, paths=[str(index)])
    scores = inputs.named.get("scores")
    if scores:
        summary = _run_with_scores(work, inputs, output, Path(scores), stop, report)
    else:
        summary = run_map_stage(work, inputs, output, stop=stop, report=report)
    if files and not output.dry_run:
        write_pictures(output, "masks", report, stop)
    return summary


def _run_with_scores(work: MapWork, inputs: Inputs, output: Output, path: Path, stop: Stop, report: Report) -> Summary:
    """Write the scores first and make the masks from them: the same masks as without, in one forward pass."""
    if path.resolve() == output.path.resolve():
        raise UsageError(f"--scores and --output are both {path}", "Choose two different folders")
    if output.reuse is not None:
        raise UsageError("--reuse takes over masks and --scores needs every score", "Leave out one of them")
    collector = _PathCollector(report)
    run_map_stage(replace(work, kind="cams"), inputs, replace(output, path=path), stop=stop, report=collector)
    if output.dry_run:
        # A dry run may find only some of the scores; with task (0, 1) it plans for those and misses no part.
        report.info(f"Each part of {output.path} will be made from the scores of that part.")
        output = replace(output, task=output.task or (0, 1))
    if not collector.paths:
        return Summary()  # a dry run without scores, or a task without a part
    masks: dict[str, Any] = {"input_kinds": ("cams",), "named": {},
                             "worker": "stages.segment.workers:StoredScoresWorker"}
    return run_map_stage(replace(work, **masks), replace(inputs, paths=map(str, collector.paths)), output, stop=stop,
                         report=report)


class _PathCollector(SilentReport):
    """Passes progress on, but collects the paths of finished shards instead of printing them."""

    def __init__(self, report: Report) -> None:
        self.paths: list[Path] = []
        self.start_phase, self.start_progress = report.start_phase, report.start_progress
        self.set_total, self.advance, self.info = report.set_total, report.advance, report.info

    def print_path(self, path: Path) -> None:
        """Collect the path of a finished shard."""
        self.paths.append(path)
