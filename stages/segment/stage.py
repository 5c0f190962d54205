"""`segment`: masks of an index's images, or of image files, by a trained network, or by words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.data.class_words import PRESETS, SCLIP, ClassWords, class_words, words_alone
from stages.data.free_words import free_words, other_scripts
from stages.errors import BadData, UsageError
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Silent, Stop, Summary
from stages.flow.map_loop import run_map
from stages.flow.packages import need_pydensecrf
from stages.flow.pictures import image_files, index_of_files, write_pictures
from stages.flow.stream import peeked
from stages.flow.work import MapWork
from stages.nets.clip import ClipSource, find_clip, in_pieces
from stages.nets.files import read_net
from stages.nets.prompts import templates_of
from stages.nets.proxy import find_proxy
from stages.nets.text_grounded import TASK as GROUNDED
from stages.segment.config import (
    PROTOCOLS,
    SHORT_SIDES,
    AnyWords,
    GroundedConfig,
    NetConfig,
    ProxyclipConfig,
    TextConfig,
    WordsConfig,
    resolved,
)
from stages.settings import as_plain
from stages.shards import Shard, expand


def run_net(config: NetConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the masks that a net of `train-seg` gives, and with `--scores` its scores as a `cams` run."""
    if not config.scales:
        raise UsageError("--scales is empty", "give for example --scales 1")
    if config.crf:
        need_pydensecrf()
    net = inputs.require("net")
    _, description = read_net(net)
    if description["task"] == GROUNDED:
        raise BadData(f"is a net for {GROUNDED}", f"run wsss segment {description['architecture']['head']}", where=net)
    if description["task"] != "segmentation":
        raise BadData(f"is a net for {description['task']}, not for segmentation", "give a net of train-seg",
                      where=net)
    settings = replace(config, device=resolve_device(config.device))
    paths, files = image_files(inputs.paths)
    trained_on = description["provenance"][-1]["inputs"].get("index", "")
    work = MapWork("segment", "net", "masks", ("index",), "stages.segment.workers:NetWorker", config,
                   as_plain(settings), named={"net": net},
                   digests={"net": description["sha256"], "net_index": trained_on},
                   root=inputs.root, shard_size=config.shard_size, batch_size=config.batch_size,
                   threads=config.threads)
    return _segmented(work, replace(inputs, paths=paths), files, tuple(description["classes"]), output, stop, report)


def run_text(method: str, config: TextConfig, inputs: Inputs, output: Output, *, stop: Stop,
             report: Report) -> Summary:
    """Write the masks that a frozen CLIP gives by words alone, and with `--scores` its scores as a `cams` run.

    Raises UsageError, MissingInput, BadData, Unavailable.
    """
    given, config = config, _resolved(config)
    clip = find_clip(inputs.named.get("clip"), inputs.named.get("weights"))
    proxy = find_proxy(inputs.named.get("proxy"), inputs.named.get("proxy_weights")) if isinstance(
        config, ProxyclipConfig) else None
    paths, files = image_files(inputs.paths)
    words, paths = _words(config, inputs.named.get("words"), paths, alone=bool(files))
    config = _with_short_side(config, given, words)
    for note in (*clip.notes, *words.notes, *_doubts(words, clip)):
        report.tell(note)
    plain = {**_plain(config, words), "clip": clip.name}
    work = MapWork("segment", method, "masks", ("index",), "stages.segment.workers:TextWorker", config, plain,
                   digests={**clip.digests(), **(proxy.digests() if proxy else {})}, root=inputs.root,
                   shard_size=config.shard_size, threads=config.threads,
                   shared={"clip": clip, "words": words, "proxy": proxy})
    return _segmented(work, replace(inputs, paths=paths), files, ("background", *words.names), output, stop, report)


def run_grounded(method: str, config: GroundedConfig, inputs: Inputs, output: Output, *, stop: Stop,
                 report: Report) -> Summary:
    """Write the masks that a net of `train-text` gives by words, and with `--scores` its scores as a `cams` run.

    Raises UsageError, MissingInput, BadData.
    """
    given, config = config, _resolved(config)
    net = inputs.require("net")
    _, description = read_net(net)
    _check_kind(method, description, net)
    paths, files = image_files(inputs.paths)
    words, paths = _words(config, inputs.named.get("words"), paths, alone=bool(files))
    config = _with_short_side(config, given, words)
    clip = ClipSource(description["initial_weights"]["name"], description["architecture"]["clip"], None)
    for note in (*words.notes, *_doubts(words, clip)):
        report.tell(note)
    trained_on = description["provenance"][-1]["inputs"].get("index", "")
    work = MapWork("segment", method, "masks", ("index",), "stages.segment.workers:GroundedWorker", config,
                   _plain(config, words), named={"net": net},
                   digests={"net": description["sha256"], "net_index": trained_on}, root=inputs.root,
                   shard_size=config.shard_size, threads=config.threads, shared={"words": words})
    return _segmented(work, replace(inputs, paths=paths), files, ("background", *words.names), output, stop, report)


def _check_kind(method: str, description: Mapping[str, Any], net: str) -> None:
    """Raise BadData for a net of another task, or of the other method of `train-text`."""
    if description["task"] != GROUNDED:
        raise BadData(f"is a net for {description['task']}, not for {GROUNDED}", f"give a net of train-text {method}",
                      where=net)
    head = description["architecture"]["head"]
    if head != method:
        raise BadData(f"is a net of train-text {head}, not of {method}", f"run wsss segment {head}", where=net)


def _resolved(config: AnyWords) -> AnyWords:
    """Return the settings with the protocol's. Raises UsageError for windows that leave pixels unseen."""
    config = resolved(config)
    if not 0 < int(config.stride or 0) <= int(config.window or 0):
        raise UsageError(f"--stride {config.stride} is above --window {config.window}",
                         "pixels between the windows would not be seen")
    return config


def _with_short_side(config: AnyWords, given: WordsConfig, words: ClassWords) -> AnyWords:
    """Return the settings with the short side that goes with the classes' words, unless one was given."""
    if given.short_side is not None:
        return config
    return replace(config, short_side=SHORT_SIDES.get(words.source, config.short_side))


def _plain(config: WordsConfig, words: ClassWords) -> dict[str, Any]:
    """Return what the provenance records of settings and words."""
    return {**as_plain(config), "device": resolve_device(config.device), "words": words.as_plain(),
            "template": list(templates_of(config.template))}


def _words(config: WordsConfig, told: str | None, paths: Iterable[str], *,
           alone: bool) -> tuple[ClassWords, Iterable[str]]:
    """Return the words of the classes, and the paths again, of which the first was looked at."""
    if told is not None and config.names != PROTOCOLS[config.protocol].names:
        raise UsageError(f"--names {config.names} and --words exclude each other", "give one of them")
    presets = (*SCLIP, *PRESETS) if config.protocol == "sclip" else PRESETS
    as_released = getattr(config, "as_released", False)
    if alone:
        if told is None and config.names in ("auto", "none"):
            raise UsageError("image files alone have no classes", 'give --words "cat; dog; grass", or --names '
                             f"{', '.join(presets)} or a FILE.toml")
        return free_words(told) if told is not None else words_alone(config.names, as_released=as_released), paths
    first, paths = peeked(paths)
    classes = Shard(expand(first)[0], ("index",)).classes if first else ("background",)
    if first and told is None and len(classes) == 1:
        raise UsageError(f"{first} has no classes", 'give --words "cat; dog; grass"')
    if told is not None:
        return free_words(told, classes), paths
    return class_words(config.names, classes, as_released=as_released, presets=presets), paths


def _doubts(words: ClassWords, clip: ClipSource) -> list[str]:
    """Return what is said of words that this CLIP can't be expected to know."""
    if clip.reads_many_languages:
        return []
    foreign = other_scripts(words)
    every = [word for several in words.classes for word in several if word not in foreign]
    broken = in_pieces(clip, every) if words.source not in (*PRESETS, *SCLIP) else []
    told = []
    if foreign:
        told.append(f"{', '.join(foreign[:5])}: the text tower of {clip.name} was made for English; expect little")
    if broken:
        told.append(f"{', '.join(broken[:5])}: no words that the tokenizer knows, it reads them in pieces; check their "
                    "spelling")
    return told


def _segmented(work: MapWork, inputs: Inputs, files: list[Path], classes: tuple[str, ...], output: Output, stop: Stop,
               report: Report) -> Summary:
    """Run the work on shards, or on image files, which then get a picture each."""
    if files:
        index = index_of_files(files, classes, output)
        if index is None:
            report.tell(f"would segment {len(files)} image files")
            return Summary()
        inputs = replace(inputs, paths=[str(index)])
    scores = inputs.named.get("scores")
    if scores:
        summary = _with_scores(work, inputs, output, Path(scores), stop, report)
    else:
        summary = run_map(work, inputs, output, stop=stop, report=report)
    if files and not output.dry_run:
        write_pictures(output, "masks", report)
    return summary


def _with_scores(work: MapWork, inputs: Inputs, output: Output, path: Path, stop: Stop, report: Report) -> Summary:
    """Write the scores first, then the masks from them: the same masks, one forward pass."""
    if path.resolve() == output.path.resolve():
        raise UsageError("--scores and -o name one folder", "give two")
    written = _Collecting(report)
    run_map(replace(work, kind="cams"), inputs, replace(output, path=path), stop=stop, report=written)
    if output.dry_run:
        # Not all scores need be there; (0, 1) are all parts, of which none is missed.
        report.tell(f"{output.path} comes of the scores, part by part")
        output = replace(output, task=output.task or (0, 1))
    if not written.paths:
        return Summary()  # a dry run without scores, or a task without a part
    masks: dict[str, Any] = {"reads": ("cams",), "named": {}, "worker": "stages.segment.workers:ScoredWorker"}
    return run_map(replace(work, **masks), replace(inputs, paths=map(str, written.paths)), output, stop=stop,
                   report=report)


class _Collecting(Silent):
    """Passes progress on, and keeps the paths instead of printing them."""

    def __init__(self, report: Report) -> None:
        self.paths: list[Path] = []
        self.begin, self.advance, self.tell = report.begin, report.advance, report.tell

    def finished(self, path: Path) -> None:
        """Keep a finished path."""
        self.paths.append(path)
