"""`show`: draws photographs with their CAMs, masks and regions, the curves of trainings, and co-occurrence matrices."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from stages.data.contact_pages import render_contact_pages
from stages.data.contact_sheets import render_contact_sheet
from stages.data.figures import build_class_legend, render_figure
from stages.data.image_formats import detect_file_format
from stages.data.image_source import ImageSource
from stages.errors import BadData, MissingInput, UsageError
from stages.flow.background import resolve_background
from stages.flow.execution import Inputs, Output, Report, check_picture_path
from stages.flow.index_lookup import find_indexes
from stages.flow.panel_inputs import RunReader
from stages.flow.picture_output import describe_leftover_pages, report_escapes, write_pictures
from stages.flow.training_log import is_training_path, read_last_trainings
from stages.shards import Run, Shard, check_same_classes
from stages.show.config import ShowConfig
from stages.show.image_selection import (
    choose_sort_key,
    compute_values,
    describe_order,
    pick_evenly,
    select_compared_runs,
    sort_worst_first,
)
from stages.show.photographs import GRID_SIDE, Photographs, build_grid_block, build_single_block

_IMAGE_KINDS = ("index", "cams", "masks", "regions")
_NO_PICTURE_REMEDIES = {
    "features": "Cluster them and draw the clusters with `wsss cluster finch {path} -o clusters.h5 --sheet "
                "clusters.png`",
    "clusters": "Run `wsss cluster` again as for {path}, with --sheet clusters.png",
}

_MAX_SIDE = 2048  # pixels of a photograph; no picture is larger


def run(config: ShowConfig, paths: Sequence[str], inputs: Inputs, output: Output, *, report: Report) -> str | None:
    """Write pictures to the output and report their paths, or return a drawing for the terminal as text.

    Raises UsageError, MissingInput (a path, or an id that the first run does not have), BadData.
    """
    _check_output(config, output)
    training_paths = [path for path in paths if is_training_path(path)]
    if training_paths:
        _check_only_trainings(paths, training_paths)
        return _show_curves(config, paths, output, report)
    runs = [_open_run(path, is_alone=len(paths) == 1) for path in paths]
    if runs[0].kind == "cooc":
        from stages.flow.cooc_plot import draw_cooc
        report_escapes(runs[0].classes[1:], report)
        return _show_pictures(config, output, report, f"the matrix of {paths[0]}", lambda: [draw_cooc(runs[0].first)])
    photographs = _select_photographs(config, paths, runs, inputs, report)
    if output.dry_run:
        report.info(f"Would draw {', '.join(photographs.ids)} {_describe_target(config, output)}.")
        return None
    if len(photographs.ids) == 1:
        return _show_single_photograph(config, photographs, runs, output, report)
    return _show_photographs(config, photographs, runs, output, report)


def _check_output(config: ShowConfig, output: Output) -> None:
    if output.path == Path() and not config.terminal:
        raise UsageError("-o is missing", "Give -o FILE.png, or --terminal to draw in the terminal")
    if output.path != Path():
        check_picture_path(output.path)


def _describe_target(config: ShowConfig, output: Output) -> str:
    return "in the terminal" if config.terminal else f"to {output.path}"


def _check_only_trainings(paths: Sequence[str], training_paths: Sequence[str]) -> None:
    others = [path for path in paths if path not in training_paths]
    if others:
        raise UsageError(f"{training_paths[0]} is a training, whose curves are not drawn next to {others[0]}",
                         "Draw curves and photographs with two commands")


def _show_curves(config: ShowConfig, paths: Sequence[str], output: Output, report: Report) -> str | None:
    # What only some pictures need is imported with them: all of it took a third of the time of drawing a photograph.
    from stages.data.curve_plots import render_charts
    from stages.flow.training_charts import build_training_charts
    charts = build_training_charts(read_last_trainings(paths, report))
    report_escapes(paths, report)
    return _show_pictures(config, output, report, f"the curves of {', '.join(paths)}",
                          lambda: [render_charts(charts, heading=", ".join(paths))])


def _open_run(path: str, *, is_alone: bool) -> Run:
    """Open a run that can be drawn. Raises BadData or UsageError for one that cannot."""
    if detect_file_format(Path(path)):
        folder = shlex.quote(str(Path(path).parent))
        raise UsageError(f"{path} is an image, and `wsss show` draws runs",
                         f"Index its folder first with `wsss index folder {folder} -o photos.h5`")
    run = Run([path], require_all=False)
    if run.kind in _NO_PICTURE_REMEDIES:
        raise BadData(f"holds {run.kind}, which are not pictures", _NO_PICTURE_REMEDIES[run.kind].format(path=path),
                      where=path)
    if run.kind == "cooc" and not is_alone:
        raise UsageError(f"{path} holds a co-occurrence matrix, which is drawn alone",
                         f"Use `wsss show {path} -o cooc.png`")
    return run if run.kind == "cooc" else Run([path], _IMAGE_KINDS, require_all=False)


def _show_pictures(config: ShowConfig, output: Output, report: Report, description: str,
                   draw: Callable[[], list[np.ndarray]]) -> str | None:
    """Write pictures, or return them as text for the terminal; in a dry run only say so."""
    if output.dry_run:
        report.info(f"Would draw {description} {_describe_target(config, output)}.")
        return None
    if config.terminal:
        from stages.data.terminal_panels import render_pictures
        return render_pictures(draw(), _choose_graphics(config), config.columns, colour=_has_colour())
    paths = write_pictures(output.path, draw())
    for path in paths:
        report.print_path(path)
    if leftover := describe_leftover_pages(output.path, len(paths)):
        report.info(leftover)
    return None


def _choose_graphics(config: ShowConfig) -> str:
    if config.graphics != "auto":
        return config.graphics
    from stages.data.terminal_graphics import choose_graphics
    return choose_graphics(os.environ, is_terminal=sys.stdout.isatty())


def _has_colour() -> bool:
    return not os.environ.get("NO_COLOR")


def _show_single_photograph(config: ShowConfig, photographs: Photographs, runs: Sequence[Run], output: Output,
                            report: Report) -> str | None:
    block, notes = build_single_block(photographs, config.cell)
    for note in notes:
        report.info(note)
    if config.terminal and _choose_graphics(config) == "blocks":
        from stages.data.terminal_panels import render_panels_as_text
        lines = [block.title, *(panel.caption for panel in block.panels if panel.caption)]
        return "\n".join([*lines, render_panels_as_text(block.panels, config.columns, colour=_has_colour())])
    legend = build_class_legend(block.class_ids, _get_classes(runs))
    report_escapes([block.title, *(name for name, _ in legend)], report)
    return _show_pictures(config, output, report, "", lambda: render_figure(block.panels, heading=block.title,
                                                                           legend=legend))


def _show_photographs(config: ShowConfig, photographs: Photographs, runs: Sequence[Run], output: Output,
                      report: Report) -> str | None:
    report.start_progress("drawing", len(photographs.ids))
    blocks = []
    for item_id in photographs.ids:
        blocks.append(build_grid_block(photographs, item_id, config.cell))
        report.advance()
    if config.terminal and _choose_graphics(config) == "blocks":
        from stages.data.terminal_panels import render_panels_as_text
        return "\n".join(f"{block.title}\n{render_panels_as_text(block.panels, config.columns, colour=_has_colour())}"
                         for block in blocks)
    report_escapes([*photographs.ids, *_get_classes(runs)], report)
    return _show_pictures(config, output, report, "", lambda: render_contact_pages(blocks, _get_classes(runs)))


def _get_classes(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the class names of the runs of CAMs, masks and regions, or of the index if there are none."""
    return next((run for run in runs if run.kind != "index"), runs[0]).classes


def _select_photographs(config: ShowConfig, paths: Sequence[str], runs: Sequence[Run], inputs: Inputs,
                        report: Report) -> Photographs:
    """Choose the images and classes to draw. Raises UsageError, MissingInput, BadData."""
    drawn = [(path, run) for path, run in zip(paths, runs, strict=True) if run.kind != "index"]
    if config.titles and len(config.titles) != len(drawn):
        raise UsageError(f"--titles has {len(config.titles)} titles for {len(drawn)} runs of CAMs, masks or regions",
                         "Give one title per run, separated by commas")
    if drawn:
        check_same_classes(*((path, run.classes) for path, run in drawn))
        _check_region_options(config, {run.kind for _, run in drawn})
    background = resolve_background(config.background)[0] if config.background else None
    readers = tuple(RunReader(run, background) for _, run in drawn)
    class_ids = _find_class_ids(config.classes, _get_classes(runs))
    sources = _find_sources(runs[0], inputs)
    ids = _select_ids(config, runs[0], readers, sources, class_ids, report)
    has_truth = any(sources[item_id].has_mask(item_id) for item_id in ids)
    if config.truth and not has_truth:
        listed = f"{', '.join(ids[:5])}{', ...' if len(ids) > 5 else ''}"
        raise BadData(f"the index has no ground truth of {listed}", "Leave out --truth, or run `wsss index` again with "
                      "--masks DIR", where=str(sources[ids[0]].index.path))
    return Photographs(tuple(ids), sources, readers, config.titles or _build_titles([path for path, _ in drawn]),
                       bool(config.titles), class_ids, background is not None,
                       config.truth or (not drawn and has_truth))


def _check_region_options(config: ShowConfig, kinds: set[str]) -> None:
    """Raise UsageError for options that would change nothing, since regions have no classes."""
    ignored = [name for name, value in (("--classes", config.classes and not config.truth),
                                        ("--background", config.background)) if value]
    if kinds == {"regions"} and ignored:
        raise UsageError(f"{ignored[0]} does not apply to regions, which have no classes", f"Leave out {ignored[0]}")


def _build_titles(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the names of runs; with their folder where two have the same name."""
    names = [Path(path).stem if Path(path).suffix == ".h5" else Path(path).name for path in paths]
    return tuple(str(Path(Path(path).absolute().parent.name) / name) if names.count(name) > 1 else name
                 for path, name in zip(paths, names, strict=True))


def _find_class_ids(names: Sequence[str], classes: Sequence[str]) -> tuple[int, ...]:
    """Return the ids of classes. Raises UsageError for a name that is no class, with those most similar to it."""
    id_by_name = {name: class_id for class_id, name in enumerate(classes) if class_id}
    for name in names:
        if name not in id_by_name:
            matches, some = get_close_matches(name, id_by_name, cutoff=0.5), list(id_by_name)[:5]
            raise UsageError(f"--classes {name!r} is not a class",
                             f"Did you mean {' or '.join(map(repr, matches))}?" if matches else
                             f"Use some of {', '.join(some)}{', ...' if len(id_by_name) > len(some) else ''}")
    return tuple(id_by_name[name] for name in names)


def _find_sources(run: Run, inputs: Inputs) -> dict[str, ImageSource]:
    """Return the source of each image of a run, by id."""
    sources: dict[str, ImageSource] = {}
    for path in find_indexes(run.shards, inputs.index):
        source = ImageSource(Shard(path, "index"), inputs.root, max_side=_MAX_SIDE)
        sources |= dict.fromkeys(source.index.ids, source)
    return sources


def _select_ids(config: ShowConfig, first: Run, readers: Sequence[RunReader], sources: dict[str, ImageSource],
                class_ids: tuple[int, ...], report: Report) -> list[str]:
    """Return the ids to draw: those given, evenly spread ones, or the worst."""
    if config.ids and config.worst:
        raise UsageError("--ids and --worst both choose the images", "Use one of them")
    unknown_ids = [item_id for item_id in config.ids if item_id not in sources]
    if unknown_ids:
        raise MissingInput(f"there is no image {unknown_ids[0]}", "See `wsss info` for the ids of the images",
                           where=str(first.first.path))
    valid_ids = [item_id for item_id in first.ids if item_id in first and item_id not in sources[item_id].index.errors]
    if not (config.ids or valid_ids):
        raise BadData("the run has no images, or all of them failed", "See `wsss info` for the reasons",
                      where=str(first.first.path))
    candidates = list(dict.fromkeys(config.ids)) or (valid_ids if config.worst else pick_evenly(valid_ids,
                                                                                              config.count))
    if not (config.worst or config.sort):
        return candidates
    with_classes = [reader for reader in readers if reader.kind != "regions"]
    key = config.sort or choose_sort_key(with_classes, sources, candidates)
    compared = select_compared_runs(key, with_classes)
    report.start_progress("comparing images", len(candidates))
    values, message = compute_values(key, candidates, compared, sources, class_ids, report.advance)
    if message:
        report.info(message)
    ids = sort_worst_first(values, key)[:config.worst or None]
    report.info(describe_order(ids, values, key))
    return ids


def run_captions(config: ShowConfig, paths: Sequence[str], inputs: Inputs, output: Output, *,
                 report: Report) -> str | None:
    """Draw how a `train-text code` network decomposes the captions of an index, with one row per image, as `run` does.

    Raises UsageError, MissingInput (an id that the index does not have), BadData (another network, no caption with a
    noun).
    """
    if any((config.truth, config.background, config.titles, config.classes, config.sort, config.worst)):
        raise UsageError("with --net, captions are drawn, to which other options do not apply",
                         "Leave out --truth, --background, --titles, --classes, --sort and --worst")
    _check_output(config, output)
    path = inputs.require("net")
    # Imported here because they import torch, which takes two seconds.
    from stages.data.nouns import build_noun_selector
    from stages.nets.net_files import load_net
    from stages.nets.text_grounded import CoDe
    from stages.show.caption_selection import select_captions
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
    captions = select_captions(config.ids, config.count, sources, selector, training["config"]["n_nouns"],
                               str(index.first.path))
    report_escapes((text for item_id, (_, nouns) in captions.items() for text in (item_id, *nouns)), report)
    return _show_pictures(config, output, report, ", ".join(captions),
                          lambda: [_draw_captions(net, captions, sources, config.cell or GRID_SIDE)])


def _draw_captions(net: Any, captions: dict[str, tuple[str, tuple[str, ...]]], sources: dict[str, ImageSource],
                   side: int) -> np.ndarray:
    """Draw a contact sheet with one row per caption."""
    from stages.show.captions import decompose_caption, draw_caption_row, find_noun_positions
    rows = []
    for item_id, (caption, nouns) in captions.items():
        image = sources[item_id].read_image(item_id)
        decomposition = decompose_caption(net, image, caption, nouns)
        noun_positions = [find_noun_positions(net.tokenizer, decomposition.words, noun) for noun in nouns]
        rows.append(draw_caption_row(image, decomposition, nouns, noun_positions, side))
    titles = [f"{item_id}: {', '.join(nouns)}" for item_id, (_, nouns) in captions.items()]
    num_regions = max(map(len, rows)) - 2
    rows = [[*row[:-1], *[None] * (num_regions + 2 - len(row)), row[-1]] for row in rows]
    names = ["image", *(f"region {number}" for number in range(1, num_regions + 1)), "word segments"]
    return render_contact_sheet(rows, column_titles=names, row_titles=titles, cell=(side, side))
