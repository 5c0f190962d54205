"""`show`: a look at images, maps and masks: a row an image, a column a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from stages.data.draw import cam_colours, half_blocks, overlay
from stages.data.images import encode_png
from stages.data.masks import voc_palette
from stages.data.nouns import NounSelector, noun_selector
from stages.data.sheet import contact_sheet
from stages.data.source import ImageSource
from stages.errors import BadData, MissingInput, UsageError
from stages.flow.background import resolve_background
from stages.flow.execution import Inputs, Output, Report, Summary, check_picture
from stages.flow.maps import full_size, includes_background
from stages.flow.parts import find_index
from stages.kernels.background import mask_of_maps, mask_of_rows
from stages.nets.files import load_net
from stages.nets.text_grounded import CoDe
from stages.shards import Run, Shard
from stages.shards.disk import make_folder, replace_file
from stages.show.captions import caption_row, decomposed, places_of
from stages.show.config import ShowConfig

T = TypeVar("T")


def run(config: ShowConfig, paths: Sequence[str], inputs: Inputs, output: str) -> str | None:
    """Write a PNG to `output`, or return the text of a drawing for the terminal.

    Raises UsageError, MissingInput (an id that no run has), BadData.
    """
    runs, sources, ids = _opened(config, paths, inputs, output)
    shown = [run for run in runs if run.kind != "index"]
    rows = [_row(item_id, sources, shown, config) for item_id in ids]
    if config.terminal:
        return half_blocks(np.concatenate(_of_one_height(rows[0]), axis=1), config.columns)
    names = [_title(path) for path, run in zip(paths, runs, strict=True) if run.kind != "index"]
    titles = ["image", *(config.titles or names), *(["truth"] if config.truth else [])]
    picture = rows[0][-1] if len(ids) == 1 and len(rows[0]) <= 2 else contact_sheet(
        rows, column_titles=titles, row_titles=list(ids), cell=(config.cell, config.cell),
        legend=_legend(ids, sources, runs[0].classes))
    make_folder(Path(output).absolute().parent)
    replace_file(Path(output), encode_png(picture))
    return None


def run_captions(config: ShowConfig, paths: Sequence[str], inputs: Inputs, output: Output, *,
                 report: Report) -> Summary:
    """Write a PNG of what a net of `train-text code` makes of the captions of an index, a row an image.

    Raises UsageError, MissingInput (an id that the index lacks), BadData (another net, no caption with a noun).
    """
    if output.path == Path() or config.terminal or config.truth or config.background or config.titles:
        raise UsageError("--net draws captions to -o FILE.png",
                         "leave --terminal, --truth, --background and --titles out")
    check_picture(output.path)
    path = inputs.require("net")
    net, description = load_net(path)
    if not isinstance(net, CoDe):
        raise BadData("is no net of train-text code, and has no text segmenter", "give one of those", where=path)
    trained = description["provenance"][-1]
    selector = noun_selector("rules" if trained["inputs"]["selector"] == "rules" else "auto",
                             picture_words=trained["config"]["picture_words"])
    for note in selector.notes:
        report.tell(note)
    index = Run(paths, "index", whole=False)
    sources = _sources(index, inputs)
    captions = _captions(config, index, sources, selector, trained["config"]["n_nouns"])
    if output.dry_run:
        report.tell(f"would draw {', '.join(captions)} to {output.path}")
        return Summary()
    rows = [_caption_row(net, sources[item_id].image(item_id), caption, nouns, config.cell)
            for item_id, (caption, nouns) in captions.items()]
    titles = [f"{item_id}: {', '.join(nouns)}" for item_id, (_, nouns) in captions.items()]
    columns = max(map(len, rows)) - 2
    rows = [[*row[:-1], *[None] * (columns + 2 - len(row)), row[-1]] for row in rows]
    names = ["image", *(f"region {place}" for place in range(1, columns + 1)), "word segments"]
    picture = contact_sheet(rows, column_titles=names, row_titles=titles, cell=(config.cell, config.cell))
    make_folder(output.path.absolute().parent)
    replace_file(output.path, encode_png(picture))
    report.finished(output.path)
    return Summary()


def _captions(config: ShowConfig, index: Run, sources: dict[str, ImageSource], selector: NounSelector,
              most: int) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return of the chosen images the caption with the most nouns, and up to `most` of these as they come in it.

    Without ids, from each of --count evenly spread places the next image that has one.
    """
    def told(item_id: str) -> tuple[str, tuple[str, ...]] | None:
        source = sources.get(item_id)
        stored = None if source is None or item_id in source.index.errors else source.index.member(item_id, "captions")
        texts = [one.decode().strip() for one in ([] if stored is None else stored.tolist())]
        each = [(text, selector.nouns(item_id, text)) for text in texts]
        caption, nouns = max(each, key=lambda one: min(len(one[1]), most), default=("", ()))
        return (caption, _in_order(nouns, caption.lower())[:most]) if nouns else None

    if config.ids:
        found = {item_id: told(item_id) for item_id in config.ids}
        unknown = [item_id for item_id, one in found.items() if one is None]
        if unknown:
            raise MissingInput(f"no image {unknown[0]} that has a caption with a noun", "see wsss info for the ids",
                               where=str(index.first.path))
        return {item_id: one for item_id, one in found.items() if one is not None}
    chosen = dict(_next_of_each(list(sources), config.count, told))
    if not chosen:
        raise BadData("no image has a caption with a noun", "index a table with a column caption, or a captions file",
                      where=str(index.first.path))
    return chosen


def _next_of_each(ids: list[str], count: int, told: Callable[[str], T | None]) -> Iterator[tuple[str, T]]:
    """Yield from each of `count` evenly spread places on the next id, of all not yet looked at, of which is told."""
    looked_at = set()
    for place in _spread(range(len(ids)), count):
        if len(looked_at) == len(ids):
            return
        for item_id in (ids[(place + step) % len(ids)] for step in range(len(ids))):
            if item_id not in looked_at:
                looked_at.add(item_id)
                found = told(item_id)
                if found is not None:
                    yield item_id, found
                    break


def _in_order(nouns: Sequence[str], caption: str) -> tuple[str, ...]:
    return tuple(sorted(nouns, key=lambda noun: (caption.find(noun), noun)))


def _caption_row(net: CoDe, image: np.ndarray, caption: str, nouns: tuple[str, ...], cell: int) -> list[np.ndarray]:
    found = decomposed(net, image, caption, nouns)
    tokenizer = net.tokenizer
    return caption_row(image, found, nouns, [places_of(tokenizer, found.words, noun) for noun in nouns], cell)


def plan(config: ShowConfig, paths: Sequence[str], inputs: Inputs, output: str) -> str:
    """Return what `run` would do, in words. Raises as that does."""
    _, _, ids = _opened(config, paths, inputs, output)
    return f"draw {', '.join(ids)} {'in the terminal' if config.terminal else f'to {output}'}"


def _opened(config: ShowConfig, paths: Sequence[str], inputs: Inputs,
            output: str) -> tuple[list[Run], dict[str, ImageSource], list[str]]:
    """Return the runs, where their images are, and the ids that are to be drawn."""
    if not output and not config.terminal:
        raise UsageError("-o is missing", "give -o FILE.png, or --terminal")
    if output:
        check_picture(output)
    runs = [Run([path], ("index", "cams", "masks"), whole=False) for path in paths]
    columns = sum(run.kind != "index" for run in runs)
    if config.titles and len(config.titles) != columns:
        raise UsageError(f"--titles has {len(config.titles)} titles for {columns} runs of maps or masks",
                         "give one for each, separated by commas")
    sources = _sources(runs[0], inputs)
    return runs, sources, _chosen(config, runs[0], sources)


def _title(path: str) -> str:
    place = Path(path)
    return place.stem if place.suffix == ".h5" else place.name


def _sources(run: Run, inputs: Inputs) -> dict[str, ImageSource]:
    found: dict[str, ImageSource] = {}
    for path in sorted({find_index(shard, inputs.index) for shard in run.shards}):
        source = ImageSource(Shard(path, "index"), inputs.root)
        found |= dict.fromkeys(source.index.ids, source)
    return found


def _chosen(config: ShowConfig, run: Run, sources: dict[str, ImageSource]) -> list[str]:
    unknown = [item_id for item_id in config.ids if item_id not in sources]
    if unknown:
        raise MissingInput(f"no image {unknown[0]}", "see wsss info for the ids", where=str(run.first.path))
    good = [item_id for item_id in run.ids if item_id in run]
    if not (config.ids or good):
        raise BadData("has no image that was not refused", where=str(run.first.path))
    return list(config.ids) or _spread(good, config.count)


def _spread(every: Sequence[T], count: int) -> list[T]:
    """Return `count` of these, evenly spread, or all where there are fewer."""
    return [every[place] for place in np.linspace(0, len(every) - 1, min(count, len(every))).round().astype(int)]


def _row(item_id: str, sources: dict[str, ImageSource], runs: list[Run], config: ShowConfig) -> list[np.ndarray]:
    source = sources[item_id]
    image = source.image(item_id)
    row = [image, *(_picture(run, item_id, image, config) for run in runs)]
    if config.truth:
        row.append(overlay(image, source.mask(item_id)) if source.has_mask(item_id) else image // 4)
    return row


def _picture(run: Run, item_id: str, image: np.ndarray, config: ShowConfig) -> np.ndarray:
    if item_id not in run:
        return image // 4
    item = run.item(item_id)
    if run.kind == "masks":
        return overlay(image, item.datasets["mask"])
    rows, ids = full_size(item, len(run.classes) - 1)
    if includes_background(run.places[item_id]):
        return overlay(image, mask_of_rows(rows, ids))
    if config.background:
        background, _ = resolve_background(config.background)
        return overlay(image, mask_of_maps(rows, ids, background, 255))
    return cam_colours(rows, ids, image=image)


def _legend(ids: Sequence[str], sources: dict[str, ImageSource], classes: tuple[str, ...]) -> list:
    present = sorted({label for item_id in ids for label in sources[item_id].labels(item_id) or ()})
    colours = voc_palette()
    return [(classes[label], tuple(int(value) for value in colours[label % 256])) for label in present]


def _of_one_height(pictures: list[np.ndarray]) -> list[np.ndarray]:
    height = max(picture.shape[0] for picture in pictures)
    return [np.pad(picture, ((0, height - picture.shape[0]), (0, 0), (0, 0))) for picture in pictures]
