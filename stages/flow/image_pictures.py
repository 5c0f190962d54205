"""Draws a picture for each image file that was given as an input: its CAMs or its mask over the photograph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from stages.data.draw import find_mask_classes
from stages.data.figures import (
    Panel,
    build_class_legend,
    build_mask_panel,
    draw_cam_figure,
    fit_size,
    render_figure,
    resize_image,
)
from stages.data.image_size import resize_labels
from stages.data.image_source import ImageSource
from stages.data.images import encode_png
from stages.errors import Stopped
from stages.flow.execution import Output, Report, Stop
from stages.flow.index_lookup import find_index
from stages.flow.item_arrays import resize_to_input
from stages.flow.picture_output import report_escapes
from stages.shards import Item, Run, parse_shard_name
from stages.shards.disk import replace_file

PANEL_SIDE = 480  # pixels of the photograph and of each heat map or mask in a picture
MAX_DRAWN_CLASSES = 12
_MAX_NAMED_CLASSES = 5


def write_pictures(output: Output, kind: str, report: Report, stop: Stop, *,
                   best_threshold: float | None = None) -> None:
    """Write OUT/<id>.png for every image of the run of `kind` at `output`, and report a line on each.

    A picture shows the photograph and a heat map per class, or the mask. The line names the drawn classes with their
    scores (of masks, their shares of the image); `best_threshold` is the threshold T of `--tags best:T`. Raises
    Stopped.
    """
    if not any((parse_shard_name(file) or ("",))[0] == kind for file in output.path.iterdir()):
        return  # a task without a part
    run = Run([output.path], kind, require_all=False)
    images = ImageSource(Run([find_index(run.first, None)]).first, max_side=PANEL_SIDE)
    report.start_progress("drawing pictures", sum(len(shard.ids) for shard in run.shards))
    for item_id in run.ids:
        if stop.requested:
            raise Stopped("stopped by a signal", "Run the same command again to draw the other pictures")
        if item_id in run:
            picture, line = _draw_item(run.item(item_id), images, run.classes, best_threshold)
            path = output.path / f"{item_id}.png"
            replace_file(path, encode_png(picture))
            report.info(f"{images.read_entry(item_id).attrs['path']}: {line} -> {path}")
        report.advance()
    names = [Path(str(images.read_entry(item_id).attrs["path"])).name for item_id in run.ids if item_id in run]
    report_escapes([*names, *run.classes[1:]], report)


def _draw_item(item: Item, images: ImageSource, classes: tuple[str, ...],
               best_threshold: float | None) -> tuple[np.ndarray, str]:
    """Return the picture of an item (H, W, 3) uint8, and a line on the classes in it."""
    image = images.read_image(item.id)
    size = (image.shape[0], image.shape[1])
    name = Path(str(images.read_entry(item.id).attrs["path"])).name
    if "mask" in item.datasets:
        image = resize_image(image, fit_size(size, PANEL_SIDE))
        mask = resize_labels(item.datasets["mask"], (image.shape[0], image.shape[1]))
        panels = [Panel(image, name), build_mask_panel(image, mask, "mask")]
        pages = render_figure(panels, legend=build_class_legend(find_mask_classes(mask), classes))
        return np.concatenate(pages, axis=0), _describe_mask(mask, classes)
    drawn = _select_highest(item, MAX_DRAWN_CLASSES)
    maps, class_ids = resize_to_input(drawn, size)
    line = describe_scores(item.datasets["class_ids"], item.datasets["scores"], classes, best_threshold)
    return draw_cam_figure(image, maps, class_ids, drawn.datasets["scores"], classes, title=name,
                           panel_side=PANEL_SIDE), line


def _select_highest(item: Item, num_classes: int) -> Item:
    """Return the item with the CAMs of its `num_classes` classes of highest score only, in the order of their ids."""
    order = np.sort(np.argsort(-item.datasets["scores"], kind="stable")[:num_classes])
    return replace(item, datasets={name: item.datasets[name][order] for name in ("class_ids", "cam", "scores")})


def describe_scores(class_ids: np.ndarray, scores: np.ndarray, classes: tuple[str, ...],
                    best_threshold: float | None) -> str:
    """Describe the scores (K,) of an image's classes, the highest first.

    With `best_threshold` it says when no class reaches it.
    """
    if not len(class_ids):
        return "no class is selected; choose with --classes"
    order = np.argsort(-scores, kind="stable")
    texts = [f"{classes[class_ids[index]]} {scores[index]:.2f}" for index in order[:_MAX_NAMED_CLASSES]]
    if best_threshold is not None and len(scores) == 1 and scores[0] < best_threshold:
        return f"no class reaches {best_threshold:g}; the highest is {texts[0]}; choose with --classes"
    return ", ".join(texts) + _describe_rest(len(order))


def _describe_mask(mask: np.ndarray, classes: tuple[str, ...]) -> str:
    """Describe the shares of the classes in a mask (H, W), the largest first, without the background."""
    ids, counts = np.unique(mask[(mask > 0) & (mask < len(classes))], return_counts=True)
    if not len(ids):
        return "background only"
    order = np.argsort(-counts, kind="stable")
    texts = [f"{classes[ids[index]]} {counts[index] / mask.size:.0%}" for index in order[:_MAX_NAMED_CLASSES]]
    return ", ".join(texts) + _describe_rest(len(order))


def _describe_rest(num_classes: int) -> str:
    return f" and {num_classes - _MAX_NAMED_CLASSES} more" if num_classes > _MAX_NAMED_CLASSES else ""
