"""`prompts`: rank prompt templates for CLIP by their sharpness, from image tags alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from stages.data.class_vocabulary import load_class_words
from stages.data.image_source import ImageSource
from stages.data.inference_views import build_patch_aligned_views
from stages.errors import BadData, MissingInput, Stopped
from stages.flow.device import count_cores, resolve_device, use_threads
from stages.flow.execution import Inputs, Report, Stop
from stages.flow.finite import check_finite
from stages.nets.clip import ClipModel, find_clip, load_clip
from stages.nets.precision import DTYPES
from stages.nets.prompt_encoding import encode_classes, encode_words, load_templates
from stages.prompts.config import PromptsConfig
from stages.prompts.sharpness import Sharpness, compute_template_scores
from stages.shards import Run


@torch.inference_mode()
def rank_templates(config: PromptsConfig, inputs: Inputs, *, stop: Stop, report: Report) -> dict[str, Any]:
    """Return the result that `wsss prompts --json` prints: the templates, sorted by increasing sharpness.

    Raises UsageError, MissingInput (no image has tags, or several tags if these are required), BadData, Unavailable.
    """
    templates = load_templates(config.templates)
    source = find_clip(inputs.named.get("clip"), inputs.named.get("weights"))
    run = Run(inputs.paths, ("index",))
    words = load_class_words(config.names, run.classes)
    for message in (*source.notes, *words.notes):
        report.info(message)
    images = _select_images(run, inputs, config, report)
    use_threads(config.threads or count_cores())
    device = torch.device(config.device if ":" in config.device else resolve_device(config.device))
    report.start_phase("loading weights")
    clip = load_clip(source, device=device, dtype=DTYPES[config.precision])
    report.info(f"Comparing {len(templates)} templates on {len(images)} images of {len(words.classes)} classes.")
    class_vectors = torch.cat([encode_classes(clip.text, words.classes, (template,), "sentence")
                               for template in templates])
    background_vectors = class_vectors[:, :0]
    if config.background_words and words.background:
        background_vectors = torch.stack([encode_words(clip.text, words.background, (template,))
                                          for template in templates])
    sharpness, num_failed = Sharpness(len(templates)), 0
    report.start_progress("", len(images))
    for embedding, labels in _embed_images(images, clip, config, device, stop, report):
        if embedding is None:
            num_failed += 1
            continue
        targets = torch.tensor([label - 1 for label in labels], device=device)
        sharpness.add(compute_template_scores(embedding, class_vectors, background_vectors, targets, clip.logit_scale,
                                              config.compete))
    if not sharpness.num_images:
        raise BadData(f"none of {len(images)} images could be read", "Check that --root is the folder of the images",
                      where=str(run.first.path))
    if not np.isfinite(sharpness.compute_values()).all():
        raise BadData("one of the templates gives every class of every image the score 0, so its sharpness is "
                      "undefined", "Check that --weights are those of this CLIP", where=source.name)
    mean_scores = (sharpness.mean / sharpness.num_images).tolist()
    ranked = sorted(zip(templates, sharpness.compute_values(), mean_scores, strict=True), key=lambda row: row[1])
    return {"templates": [{"template": template, "sharpness": value, "mean_score": mean}
                          for template, value, mean in ranked],
            "images": sharpness.num_images, "refused": num_failed, "names": words.to_json_dict(), "clip": source.name}


def _select_images(run: Run, inputs: Inputs, config: PromptsConfig, report: Report) -> list[tuple[ImageSource, str]]:
    """Return the images selected by `--images` and `--limit`, and report how many have no tag.

    Raises MissingInput if there is none.
    """
    min_tags = 2 if config.images == "multi-label" else 1
    selected, num_untagged = [], 0
    for shard in run.shards:
        source = ImageSource(shard, inputs.root, max_side=config.max_side)
        for item_id in shard.ids:
            if item_id in shard.errors:
                continue
            num_tags = len(source.read_labels(item_id) or ())
            num_untagged += num_tags == 0
            if num_tags >= min_tags:
                selected.append((source, item_id))
    if not selected:
        required, remedy = "a tag", "Run `wsss index` again with the tags of the images"
        if min_tags == 2:
            required, remedy = "two tags or more", "Use --images all, or an index of images with several tags"
        raise MissingInput(f"no image has {required}", remedy, where=str(run.first.path))
    if num_untagged:
        num_images = sum(len(shard.ids) for shard in run.shards)
        report.info(f"Skipped {num_untagged} of {num_images} images because they have no tag.")
    positions = np.linspace(0, len(selected) - 1, min(config.limit or len(selected), len(selected))).round().astype(int)
    return [selected[position] for position in positions]


def _embed_images(images: list[tuple[ImageSource, str]], clip: ClipModel, config: PromptsConfig, device: torch.device,
                  stop: Stop, report: Report) -> Iterator[tuple[torch.Tensor | None, tuple[int, ...]]]:
    """Yield each image's embedding and labels; the embedding is None, with a message, if the image failed."""
    for source, item_id in images:
        if stop.requested:
            raise Stopped("stopped before the end", "Run the same command again")
        report.advance()
        labels = source.read_labels(item_id) or ()
        try:
            image = source.read_image(item_id)
            (view,) = build_patch_aligned_views(image, (1.0,), clip.vision.cell, clip.mean, clip.std)
            batch = torch.from_numpy(view)[None].to(device)
            embedding = clip.vision.embed(batch, pooling=config.pooling).embedding[0]
            check_finite(embedding.float().cpu(), "embedding", item_id)
        except BadData as error:
            report.info(f"Skipped an image that could not be processed: {error}")
            yield None, labels
            continue
        yield embedding, labels
