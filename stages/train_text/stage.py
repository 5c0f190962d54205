"""`train-text`: train a network that segments what a text names, on images and captions."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import torch

from stages.data.image_source import open_image_sources
from stages.data.nouns import NounSelector, build_noun_selector
from stages.errors import BadData, Stopped, UsageError
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.training_images import describe_training_images
from stages.nets.clip import find_clip, load_open_clip_model
from stages.nets.net_files import describe_net
from stages.nets.prompt_encoding import load_templates
from stages.nets.text_grounded import CoDe, TextGroundedNet, build_text_grounded_net
from stages.shards import Run
from stages.train_text.config import REFERENCE_BATCH_SIZE
from stages.train_text.samples import CaptionEncoder, Captions, CaptionSamples
from stages.training.distributed import mute_unless_main_process, read_world_size
from stages.training.initialisation import build_training_provenance, report_rejected_images
from stages.training.loop import TrainingJob, resolve_settings, train, try_skip_training

METHODS = {"tcl": "stages.train_text.tcl", "code": "stages.train_text.code"}
_MAX_SHARE_WITHOUT_NOUNS = 0.5
# English captions have a share of 0.21 or more of English function words, others 0.05 or less; few words prove nothing.
_MIN_ENGLISH_SHARE, _MIN_WORDS = 0.08, 100


def run(method: str, config: Any, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Train a network on the captions of an index.

    Raises UsageError, MissingInput, BadData (no captions, or too few with a noun), Unavailable, and whatever `train`
    raises.
    """
    output.check_not_folder()
    report.start_phase("reading the index")
    index = Run(inputs.paths, "index")
    report, requested_device, config = mute_unless_main_process(report), config.device, resolve_settings(config)
    source = find_clip(inputs.named.get("clip"), inputs.named.get("weights"))
    selector = _build_selector(method, config, inputs)
    digests = {"index": index.digest, **source.compute_digests(), **(selector.provenance_inputs if selector else {})}
    templates = load_templates(config.template) if selector else ()
    entry = build_training_provenance("train-text", method, config, digests)
    if selector:
        entry["config"]["template"] = list(templates)
    if summary := try_skip_training(entry, output, report):
        return summary
    for note in (*source.notes, *(selector.notes if selector else ()), *_build_learning_rate_warning(config)):
        report.info(note)
    report_rejected_images(index, report)
    torch.manual_seed(config.seed)
    report.start_phase("loading weights")
    net = _build_net(method, config, source)
    captions = _read_captions(index, inputs.root, config.max_side, selector, report, stop)
    encoder = CaptionEncoder(selector, net.tokenizer, net.clip.context_length, config, templates)
    samples = CaptionSamples(captions, encoder, config)
    initial = {"name": source.name, "sha256": source.compute_digests()["clip_weights"]}
    description = describe_net(net, classes=["background"], supervision="captions", initial_weights=initial,
                               provenance=[*index.first.provenance, entry],
                               **describe_training_images(index, captions.list_image_ids()))
    job = TrainingJob(net, partial(importlib.import_module(METHODS[method]).loss, config=config), samples.draw,
                      len(captions), [], description, steps=config.steps,
                      report_every=config.save_every if config.steps else 0,
                      begin_step=lambda step: _set_last_block_trainable(net, step >= config.unfreeze_at))
    return train(job, config, output, requested_device=requested_device, stop=stop, report=report)


def _build_learning_rate_warning(config: Any) -> list[str]:
    """Return a warning when the default learning rate is used with another number of images than it is meant for."""
    num_images, default_lr = config.batch_size * config.accumulate * read_world_size(), type(config).lr
    if config.lr != default_lr or num_images == REFERENCE_BATCH_SIZE:
        return []
    lr, lr_floor = (value * num_images / REFERENCE_BATCH_SIZE for value in (default_lr, type(config).lr_floor))
    return [f"warning: the default --lr {default_lr:g} is CoDe's for {REFERENCE_BATCH_SIZE} images per step (torchrun "
            f"with 4 processes of 16), but a step has {num_images}. In proportion, use --lr {lr:.3g} "
            f"--lr-floor {lr_floor:.3g}."]


def _build_selector(method: str, config: Any, inputs: Inputs) -> NounSelector | None:
    """Return the selector of nouns; None when the method trains on whole captions."""
    if method == "tcl":
        return None
    table = inputs.named.get("nouns_file")
    if config.nouns == "file" and not table:
        raise UsageError("--nouns file needs a table of nouns", "Pass it as --nouns-file TABLE")
    if table and config.nouns != "file":
        raise UsageError(f"--nouns-file {table} is not read with --nouns {config.nouns}",
                         "Use --nouns file, or omit --nouns-file")
    return build_noun_selector(config.nouns, table, picture_words=config.picture_words)


def _read_captions(index: Run, root: str | None, max_side: int, selector: NounSelector | None, report: Report,
                   stop: Stop) -> Captions:
    """Return the captions to train on, and report how many are usable. Raises BadData when there are none."""
    def after_image() -> None:
        report.advance()
        if stop.requested:
            raise Stopped("stopped by a signal while captions were read", "Run the same command again")

    report.start_progress("reading captions", sum(len(shard.ids) for shard in index.shards))
    captions = Captions(open_image_sources(index, root, max_side=max_side), selector, after_image)
    where = str(index.first.path)
    if not captions.num_captions:
        raise BadData("no image of the index has a caption",
                      "Make the index from a table with a column `caption`, or from a captions file", where=where)
    if captions.num_images_without_captions:
        report.info(f"Skipping {captions.num_images_without_captions} images without a caption.")
    if selector:
        _report_nouns(captions, report, where)
    return captions


def _report_nouns(captions: Captions, report: Report, where: str) -> None:
    """Report how many captions have nouns. Raises BadData when too few have, and warns when they are not English."""
    num_captions, num_without_nouns = captions.num_captions, captions.num_without_nouns
    num_foreign = captions.num_foreign_without_nouns
    foreign = f" ({num_foreign} of them have letters of a script other than Latin)" if num_foreign else ""
    report.info(f"Of {num_captions} captions, {captions.num_with_one_noun} have one noun; {num_without_nouns} have "
                f"none and are skipped{foreign}.")
    if num_without_nouns > _MAX_SHARE_WITHOUT_NOUNS * num_captions:
        raise BadData(f"{num_without_nouns} of {num_captions} captions have no noun",
                      "Use English captions, or pass their nouns with --nouns file --nouns-file TABLE", where=where)
    num_words, num_english_words = captions.num_words, captions.num_english_words
    if num_words >= _MIN_WORDS and num_english_words < _MIN_ENGLISH_SHARE * num_words:
        report.info(f"warning: the captions seem not to be in English: only {num_english_words} of their first "
                    f'{num_words} words are function words such as "the" or "of". If so, the nouns are wrong; pass '
                    "them with --nouns file --nouns-file TABLE.")


def _build_net(method: str, config: Any, source: Any) -> TextGroundedNet:
    model, architecture = load_open_clip_model(source)
    parts = {"clip": architecture, "head": method, "convolutions": config.convolutions}
    if method == "code":
        parts |= {"n_context": config.n_context, "noun_place": config.noun_place, "text_layer": config.text_layer,
                  "region_size": config.crop_size}
    net = build_text_grounded_net(parts, model)
    if config.crop_size % net.clip.cell:
        patch_size = net.clip.cell
        raise UsageError(f"--crop-size {config.crop_size} is not a multiple of the network's patch size {patch_size}",
                         f"Use for example --crop-size {-(-config.crop_size // patch_size) * patch_size}")
    if isinstance(net, CoDe):
        net.set_trainable(word_prompt=config.co_decomposition and config.word_prompt,
                          region_prompt=config.region_prompt, text=config.co_decomposition)
    net.mean, net.std = config.mean, config.std
    return net


def _set_last_block_trainable(net: TextGroundedNet, is_trainable: bool) -> None:
    """Freeze or unfreeze the copy of CLIP's last block; the optimiser skips parameters without a gradient."""
    net.segmenter.last_block.requires_grad_(is_trainable)
