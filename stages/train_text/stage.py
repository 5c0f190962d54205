"""`train-text`: images and their captions to a network that finds in an image what a text names."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch

from stages.data.nouns import NounSelector, noun_selector
from stages.data.source import sources_of
from stages.errors import BadData, Stopped, UsageError
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.nets.clip import find_clip, open_model
from stages.nets.files import describe_net
from stages.nets.prompts import templates_of
from stages.nets.text_grounded import CoDe, TextGrounded, build_grounded
from stages.shards import Run
from stages.train_text.config import IMAGES_OF_RATE
from stages.train_text.samples import Captions, Samples, Words
from stages.training.distributed import heard, processes
from stages.training.loop import Job, resolved, train, without_training
from stages.training.start import tell_refused, training_entry

METHODS = {"tcl": "stages.train_text.tcl", "code": "stages.train_text.code"}
_LARGEST_SHARE_WITHOUT = 0.5
# English captions have 0.21 and more, others 0.05 and less; too few words say nothing.
_LEAST_SHARE_ENGLISH, _LEAST_WORDS = 0.08, 100


def run(method: str, config: Any, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Train a network on an index's captions.

    Raises UsageError, MissingInput, BadData (no captions, too few with a noun), Unavailable, and what `train` raises.
    """
    output.check_file()
    index = Run(inputs.paths, "index")
    report, ordinal, config = heard(report), config.device, resolved(config)
    source = find_clip(inputs.named.get("clip"), inputs.named.get("weights"))
    selector = _selector(method, config, inputs)
    digests = {"index": index.digest, **source.digests(), **(selector.recorded if selector else {})}
    templates = templates_of(config.template) if selector else ()
    entry = training_entry("train-text", method, config, digests)
    if selector:
        entry["config"]["template"] = list(templates)
    if answer := without_training(entry, output, report):
        return answer
    for note in (*source.notes, *(selector.notes if selector else ()), *_rate_note(config)):
        report.tell(note)
    tell_refused(index, report)
    torch.manual_seed(config.seed)
    net = _net(method, config, source)
    captions = _captions(index, inputs.root, selector, report, stop)
    samples = Samples(captions, Words(selector, net.tokenizer, net.clip.context, config, templates), config)
    description = describe_net(net, classes=["background"], supervision="captions",
                               initial_weights={"name": source.name, "sha256": source.digests()["clip_weights"]},
                               provenance=[*index.first.provenance, entry])
    job = Job(net, partial(importlib.import_module(METHODS[method]).loss, config=config), samples.draw,
              len(captions), [], description, steps=config.steps,
              report_every=config.save_every if config.steps else 0,
              begin_step=lambda step: _unfreeze(net, step >= config.unfreeze_at))
    return train(job, config, output, ordinal=ordinal, stop=stop, report=report)


def _rate_note(config: Any) -> list[str]:
    """Return what is said where the default rate meets another number of images than it is for."""
    images, rate = config.batch_size * config.accumulate * processes(), type(config).lr
    if config.lr != rate or images == IMAGES_OF_RATE:
        return []
    lr, floor = (value * images / IMAGES_OF_RATE for value in (rate, type(config).lr_floor))
    return [f"--lr {rate:g} is CoDe's for {IMAGES_OF_RATE} images a step (torchrun, four processes of 16), here are "
            f"{images}: in proportion it would be --lr {lr:.3g} --lr-floor {floor:.3g}"]


def _selector(method: str, config: Any, inputs: Inputs) -> NounSelector | None:
    """Return who finds the nouns; None where whole captions are learnt from."""
    if method == "tcl":
        return None
    table = inputs.named.get("nouns_file")
    if (config.nouns == "file") != bool(table):
        raise UsageError("--nouns file and --nouns-file TABLE go together")
    return noun_selector(config.nouns, table, picture_words=config.picture_words)


def _captions(index: Run, root: str | None, selector: NounSelector | None, report: Report, stop: Stop) -> Captions:
    """Return the captions to train on, and tell how many have one noun and how many none."""
    def seen() -> None:
        report.advance()
        if stop.requested:
            raise Stopped("stopped", "run the same command again")

    report.begin("captions", sum(len(shard.ids) for shard in index.shards))
    captions = Captions(sources_of(index, root), selector, seen)
    where = str(index.first.path)
    if not captions.total:
        raise BadData("no image has a caption", "index a table with a column caption, or a captions file", where=where)
    if captions.images_without:
        report.tell(f"{captions.images_without} images have no caption and are left out")
    if selector:
        foreign = f" ({captions.foreign} are in another script than the Latin one)" if captions.foreign else ""
        report.tell(f"{captions.total} captions: {captions.one} have one noun; {captions.none} have none and are left "
                    f"out{foreign}")
        if captions.none > _LARGEST_SHARE_WITHOUT * captions.total:
            raise BadData(f"{captions.none} of {captions.total} captions have no noun",
                          "the captions shall be in English, or give --nouns file with --nouns-file", where=where)
        if captions.words >= _LEAST_WORDS and captions.english < _LEAST_SHARE_ENGLISH * captions.words:
            report.tell(f"the captions seem not to be in English: {captions.english} of their first {captions.words} "
                        'words are such as "the" or "of"; their nouns are wrong then, --nouns file takes them from a '
                        "table")
    return captions


def _net(method: str, config: Any, source: Any) -> TextGrounded:
    model, architecture = open_model(source)
    parts = {"clip": architecture, "head": method, "convolutions": config.convolutions}
    if method == "code":
        parts |= {"n_context": config.n_context, "noun_place": config.noun_place, "text_layer": config.text_layer,
                  "region_size": config.crop_size}
    net = build_grounded(parts, model)
    if config.crop_size % net.clip.cell:
        raise UsageError(f"--crop-size {config.crop_size} is no multiple of the patch", f"give {net.clip.cell} times "
                         "a whole number")
    if isinstance(net, CoDe):
        net.learn(word_prompt=config.co_decomposition and config.word_prompt,
                  region_prompt=config.region_prompt, text=config.co_decomposition)
    net.mean, net.std = config.mean, config.std
    return net


def _unfreeze(net: TextGrounded, learns: bool) -> None:
    """Let the copy of the last block learn, or not: what gets no gradient is not touched by the optimiser."""
    net.segmenter.last_block.requires_grad_(learns)
