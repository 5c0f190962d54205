"""`show`: draws images, CAMs and masks as a contact sheet with one row per image and one column per run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from stages.data.contact_sheets import render_contact_sheet
from stages.data.draw import colour_cams, overlay_mask, render_half_blocks
from stages.data.image_source import ImageSource
from stages.data.images import encode_png
from stages.data.masks import voc_palette
from stages.data.nouns import NounSelector, build_noun_selector
from stages.errors import BadData, MissingInput, UsageError
from stages.flow.background import resolve_background
from stages.flow.execution import Inputs, Output, Report, Summary, check_picture_path
from stages.flow.item_arrays import includes_background, resize_to_image
from stages.flow.parts import find_index
from stages.kernels.background import cams_to_mask, scores_to_mask
from stages.nets.net_files import load_net
from stages.nets.text_grounded import CoDe
from stages.shards import Run, Shard
from stages.shards.disk import make_folder, replace_file
from stages.show.captions import decompose_caption, draw_caption_row, find_noun_positions
from stages.show.config import ShowConfig

T = TypeVar("T")


def run(config: ShowConfig, paths: Sequence[str], inputs: Inputs, output: str) -> str | None:
    """Write a PNG to `output`, or return a drawing for the terminal as text.

    Raises UsageError, MissingInput (an id that the first run does not have), BadData.
    """
    runs, sources, ids = _open_runs(config, paths, inputs, output)
    column_runs = [run for run in runs if run.kind != "index"]
    rows = [_draw_row(item_id, sources, column_runs, config) for item_id in ids]
    if config.terminal:
        return render_half_blocks(np.concatenate(_pad_to_same_height(rows[0]), axis=1), config.columns)
    names = [_get_title(path) for path, run in zip(paths, runs, strict=True) if run.kind != "index"]
    titles = ["image", *(config.titles or names), *(["truth"] if config.truth else [])]
    drawing = rows[0][-1] if len(ids) == 1 and len(rows[0]) <= 2 else render_contact_sheet(
        rows, column_titles=titles, row_titles=list(ids), cell=(config.cell, config.cell),
        legend=_build_legend(ids, sources, runs[0].classes))
    make_folder(Path(output).absolute().parent)
    replace_file(Path(output), encode_png(drawing))
    return None


def run_captions(config: ShowConfig, paths: Sequence[str], inputs: Inputs, output: Output, *,
                 report: Report) -> Summary:
    """Write a PNG of how a `train-text code` network decomposes the captions of an index, with one row per image.

    Raises UsageError, MissingInput (an id that the index does not have), BadData (another network, no caption with a
    noun).
    """
    if output.path == Path() or config.terminal or config.truth or config.background or config.titles:
        raise UsageError("with --net, captions are drawn to -o FILE.png and other options do not apply",
                         "Give -o FILE.png, and leave out --terminal, --truth, --background and --titles")
    check_picture_path(output.path)
    path = inputs.require("net")
    net, description = load_net(path)
    if not isinstance(net, CoDe):
        raise BadData("this is not a network of `train-text code`, so it has no text segmenter",
                      "Give --net a file written by `wsss train-text code`", where=path)
    training = description["provenance"][-1]
    selector = build_noun_selector("rules" if training["inputs"]["selector"] == "rules" else "auto",
                                   picture_words=training["config"]["picture_words"])
    for note in selector.notes:
        report.info(note)
    index = Run(paths, "index", require_all=False)
    sources = _find_sources(index, inputs)
    captions = _select_captions(config, index, sources, selector, training["config"]["n_nouns"])
    if output.dry_run:
        report.info(f"Would draw {', '.join(captions)} to {output.path}.")
        return Summary()
    rows = [_draw_caption_row(net, sources[item_id].read_image(item_id), caption, nouns, config.cell)
            for item_id, (caption, nouns) in captions.items()]
    titles = [f"{item_id}: {', '.join(nouns)}" for item_id, (_, nouns) in captions.items()]
    num_regions = max(map(len, rows)) - 2
    rows = [[*row[:-1], *[None] * (num_regions + 2 - len(row)), row[-1]] for row in rows]
    names = ["image", *(f"region {number}" for number in range(1, num_regions + 1)), "word segments"]
    sheet = render_contact_sheet(rows, column_titles=names, row_titles=titles, cell=(config.cell, config.cell))
    make_folder(output.path.absolute().parent)
    replace_file(output.path, encode_png(sheet))
    report.print_path(output.path)
    return Summary()


def _select_captions(config: ShowConfig, index: Run, sources: dict[str, ImageSource], selector: NounSelector,
                     max_nouns: int) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Select per image the caption with the most nouns, and up to `max_nouns` of them in the order of the caption.

    Without --ids, images are chosen by `_find_next_of_spread_positions`. Raises MissingInput for an id without such a
    caption, BadData if no image has one.
    """
    def select_caption(item_id: str) -> tuple[str, tuple[str, ...]] | None:
        texts = _read_captions(sources.get(item_id), item_id)
        candidates = [(text, selector.select_nouns(item_id, text)) for text in texts]
        caption, nouns = max(candidates, key=lambda candidate: min(len(candidate[1]), max_nouns), default=("", ()))
        return (caption, _sort_by_position(nouns, caption.lower())[:max_nouns]) if nouns else None

    if config.ids:
        captions = {}
        for item_id in config.ids:
            caption = select_caption(item_id)
            if caption is None:
                raise MissingInput(f"there is no image {item_id} with a caption that has a noun",
                                   "See `wsss info` for the ids of the images", where=str(index.first.path))
            captions[item_id] = caption
        return captions
    captions = dict(_find_next_of_spread_positions(list(sources), config.count, select_caption))
    if not captions:
        raise BadData("no image has a caption with a noun",
                      "Index a table with a column `caption`, or give `wsss index coco` a captions file",
                      where=str(index.first.path))
    return captions


def _read_captions(source: ImageSource | None, item_id: str) -> list[str]:
    if source is None or item_id in source.index.errors:
        return []
    captions = source.index.read_item_dataset(item_id, "captions")
    return [] if captions is None else [caption.decode().strip() for caption in captions.tolist()]


def _find_next_of_spread_positions(ids: list[str], count: int,
                                   select: Callable[[str], T | None]) -> Iterator[tuple[str, T]]:
    """Yield (id, select(id)) for the next id from each of `count` evenly spread positions for which it is not None.

    No id is examined twice, since `select` may be slow.
    """
    examined = set()
    for position in _pick_evenly(range(len(ids)), count):
        if len(examined) == len(ids):
            return
        for item_id in (ids[(position + step) % len(ids)] for step in range(len(ids))):
            if item_id not in examined:
                examined.add(item_id)
                selection = select(item_id)
                if selection is not None:
                    yield item_id, selection
                    break


def _sort_by_position(nouns: Sequence[str], caption: str) -> tuple[str, ...]:
    return tuple(sorted(nouns, key=lambda noun: (caption.find(noun), noun)))


def _draw_caption_row(net: CoDe, image: np.ndarray, caption: str, nouns: tuple[str, ...],
                      cell_size: int) -> list[np.ndarray]:
    decomposition = decompose_caption(net, image, caption, nouns)
    noun_positions = [find_noun_positions(net.tokenizer, decomposition.words, noun) for noun in nouns]
    return draw_caption_row(image, decomposition, nouns, noun_positions, cell_size)


def describe_plan(config: ShowConfig, paths: Sequence[str], inputs: Inputs, output: str) -> str:
    """Return what `run` would do, as a phrase that follows "would". Raises the same errors as `run`."""
    _, _, ids = _open_runs(config, paths, inputs, output)
    return f"draw {', '.join(ids)} {'in the terminal' if config.terminal else f'to {output}'}"


def _open_runs(config: ShowConfig, paths: Sequence[str], inputs: Inputs,
               output: str) -> tuple[list[Run], dict[str, ImageSource], list[str]]:
    """Return the runs, the sources of their images by id, and the ids to draw."""
    if not output and not config.terminal:
        raise UsageError("-o is missing", "Give -o FILE.png, or --terminal to draw in the terminal")
    if output:
        check_picture_path(output)
    runs = [Run([path], ("index", "cams", "masks"), require_all=False) for path in paths]
    num_columns = sum(run.kind != "index" for run in runs)
    if config.titles and len(config.titles) != num_columns:
        raise UsageError(f"--titles has {len(config.titles)} titles for {num_columns} runs of CAMs or masks",
                         "Give one title per run, separated by commas")
    sources = _find_sources(runs[0], inputs)
    return runs, sources, _select_ids(config, runs[0], sources)


def _get_title(path: str) -> str:
    return Path(path).stem if Path(path).suffix == ".h5" else Path(path).name


def _find_sources(run: Run, inputs: Inputs) -> dict[str, ImageSource]:
    sources: dict[str, ImageSource] = {}
    for path in sorted({find_index(shard, inputs.index) for shard in run.shards}):
        source = ImageSource(Shard(path, "index"), inputs.root)
        sources |= dict.fromkeys(source.index.ids, source)
    return sources


def _select_ids(config: ShowConfig, run: Run, sources: dict[str, ImageSource]) -> list[str]:
    unknown_ids = [item_id for item_id in config.ids if item_id not in sources]
    if unknown_ids:
        raise MissingInput(f"there is no image {unknown_ids[0]}", "See `wsss info` for the ids of the images",
                           where=str(run.first.path))
    valid_ids = [item_id for item_id in run.ids if item_id in run]
    if not (config.ids or valid_ids):
        raise BadData("the run has no images, or all of them failed", "See `wsss info` for the reasons",
                      where=str(run.first.path))
    return list(config.ids) or _pick_evenly(valid_ids, config.count)


def _pick_evenly(values: Sequence[T], count: int) -> list[T]:
    """Return `count` evenly spread values, or all if there are fewer."""
    indices = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return [values[index] for index in indices]


def _draw_row(item_id: str, sources: dict[str, ImageSource], runs: list[Run], config: ShowConfig) -> list[np.ndarray]:
    source = sources[item_id]
    image = source.read_image(item_id)
    row = [image, *(_draw_item(run, item_id, image, config) for run in runs)]
    if config.truth:
        row.append(overlay_mask(image, source.read_mask(item_id)) if source.has_mask(item_id) else image // 4)
    return row


def _draw_item(run: Run, item_id: str, image: np.ndarray, config: ShowConfig) -> np.ndarray:
    """Draw the CAMs or the mask of an image; an image that the run lacks is only darkened."""
    if item_id not in run:
        return image // 4
    item = run.item(item_id)
    if run.kind == "masks":
        return overlay_mask(image, item.datasets["mask"])
    maps, class_ids = resize_to_image(item, len(run.classes) - 1)
    if includes_background(run.shard_by_id[item_id]):
        return overlay_mask(image, scores_to_mask(maps, class_ids))
    if config.background:
        background, _ = resolve_background(config.background)
        return overlay_mask(image, cams_to_mask(maps, class_ids, background, 255))
    return colour_cams(maps, class_ids, image=image)


def _build_legend(ids: Sequence[str], sources: dict[str, ImageSource], classes: tuple[str, ...]) -> list:
    class_ids = sorted({label for item_id in ids for label in sources[item_id].read_labels(item_id) or ()})
    palette = voc_palette()
    return [(classes[class_id], tuple(int(value) for value in palette[class_id % 256])) for class_id in class_ids]


def _pad_to_same_height(images: list[np.ndarray]) -> list[np.ndarray]:
    height = max(image.shape[0] for image in images)
    return [np.pad(image, ((0, height - image.shape[0]), (0, 0), (0, 0))) for image in images]
