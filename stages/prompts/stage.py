"""`prompts`: which words to show a CLIP, from image tags alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from stages.data.class_words import class_words
from stages.data.source import ImageSource
from stages.data.views import patch_views
from stages.errors import BadData, MissingInput, Stopped
from stages.flow.device import cores, resolve_device, use_threads
from stages.flow.execution import Inputs, Report, Stop
from stages.flow.finite import check_finite
from stages.nets.clip import Clip, find_clip, load_clip
from stages.nets.precision import DTYPES
from stages.nets.prompts import class_features, templates_of, word_features
from stages.prompts.config import PromptsConfig
from stages.prompts.sharpness import Sharpness, class_scores
from stages.shards import Run


@torch.inference_mode()
def rank(config: PromptsConfig, inputs: Inputs, *, stop: Stop, report: Report) -> dict[str, Any]:
    """Return the result that `wsss prompts --json` prints: the templates, the sharpest last.

    Raises UsageError, MissingInput (no image has tags, or several where these are asked for), BadData, Unavailable.
    """
    templates = templates_of(config.templates)
    source = find_clip(inputs.named.get("clip"), inputs.named.get("weights"))
    run = Run(inputs.paths, ("index",))
    words = class_words(config.names, run.classes)
    for note in (*source.notes, *words.notes):
        report.tell(note)
    images = _select_images(run, inputs, config, report)
    use_threads(config.threads or cores())
    device = torch.device(config.device if ":" in config.device else resolve_device(config.device))
    clip = load_clip(source, device=device, dtype=DTYPES[config.precision])
    report.tell(f"{len(templates)} templates for {len(words.classes)} classes, {len(images)} images")
    classes = torch.cat([class_features(clip.text, words.classes, (one,), "sentence") for one in templates])
    background = words.background if config.background_words else ()
    others = torch.stack([word_features(clip.text, background, (one,)) for one in templates]) if background else (
        classes[:, :0])
    total, refused = Sharpness(len(templates)), 0
    report.begin("prompts", len(images))
    for embedding, labels in _embedded(images, clip, config, device, stop, report):
        if embedding is None:
            refused += 1
            continue
        targets = torch.tensor([label - 1 for label in labels], device=device)
        total.add(class_scores(embedding, classes, others, targets, clip.scale, config.compete))
    if not total.images:
        raise BadData("no image could be read", "see wsss info", where=str(run.first.path))
    if not np.isfinite(total.values()).all():
        raise BadData("a template scores every class of every image 0, so it has no sharpness",
                      "check the weights of the CLIP", where=source.name)
    ranked = sorted(zip(templates, total.values(), (total.mean / total.images).tolist(), strict=True),
                    key=lambda row: row[1])
    return {"templates": [{"template": template, "sharpness": value, "mean_score": mean}
                          for template, value, mean in ranked],
            "images": total.images, "refused": refused, "names": words.as_plain(), "clip": source.name}


def _select_images(run: Run, inputs: Inputs, config: PromptsConfig, report: Report) -> list[tuple[ImageSource, str]]:
    """Return the images that `--images` and `--limit` name, and report how many have no tag.

    Raises MissingInput when none is left.
    """
    fewest = 2 if config.images == "multi-label" else 1
    selected, untagged = [], 0
    for shard in run.shards:
        source = ImageSource(shard, inputs.root)
        for item_id in shard.ids:
            if item_id in shard.errors:
                continue
            n_tags = len(source.labels(item_id) or ())
            untagged += n_tags == 0
            if n_tags >= fewest:
                selected.append((source, item_id))
    if not selected:
        wanted = "two tags or more" if fewest == 2 else "a tag"
        raise MissingInput(f"no image has {wanted}", "index the images with their tags" if fewest == 1 else
                           "give an index of such images, or --images all", where=str(run.first.path))
    if untagged:
        report.tell(f"{untagged} images have no tag and do not count")
    positions = np.linspace(0, len(selected) - 1, min(config.limit or len(selected), len(selected))).round().astype(int)
    return [selected[position] for position in positions]


def _embedded(images: list[tuple[ImageSource, str]], clip: Clip, config: PromptsConfig, device: torch.device,
              stop: Stop, report: Report) -> Iterator[tuple[torch.Tensor | None, tuple[int, ...]]]:
    """Yield each image's embedding and its labels; None, and a message, where it can't be read or is not finite."""
    for source, item_id in images:
        if stop.requested:
            raise Stopped("stopped", "run the same command again")
        report.advance()
        labels = source.labels(item_id) or ()
        try:
            (view,) = patch_views(source.image(item_id), (1.0,), clip.vision.cell, clip.mean, clip.std)
            batch = torch.from_numpy(view)[None].to(device)
            embedding = clip.vision.embed(batch, pooling=config.pooling).embedding[0]
            check_finite(embedding.float().cpu(), "embedding", item_id)
        except BadData as error:
            report.tell(f"left out: {error}")
            yield None, labels
            continue
        yield embedding, labels
