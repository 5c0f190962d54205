"""`report`: writes one page with the images, scores and history of several runs over the same images."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import BadData, CannotCreate, MissingInput, Stopped, UsageError
from stages.flow.background import resolve_background
from stages.flow.compared_runs import ComparedRuns, PredictionReader, group_paths, open_compared_runs
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.folder_output import FolderOutput
from stages.flow.training_log import NET_SUFFIX, is_training_path, read_last_trainings
from stages.kernels.background import Background
from stages.nets.net_description import read_verified_description
from stages.report.config import ReportConfig
from stages.report.figures import RunFigures, build_sections
from stages.report.gallery import IMAGES_PER_CHUNK, ImageEncoder, build_layers, describe_classes, describe_image
from stages.report.page import PageContents, Section, find_request, render_page
from stages.report.plot_steps import plot_steps
from stages.report.provenance import Chain, list_steps
from stages.report.score_images import choose_images, count_cooccurrences, sort_worst_first
from stages.report.score_runs import THRESHOLDS, RunScores, sweep_thresholds
from stages.report.summary import Intervals, build_score_rows, build_summary, compute_intervals, join_names
from stages.settings import to_json_dict
from stages.shards import describe_differences, hash_json

_SUFFIXES = (".html", ".htm")
_SWEEP = "sweep"
_NUM_NAMED = 3
Logs = dict[str, list[dict[str, Any]]]


def run(config: ReportConfig, paths: Sequence[str], inputs: Inputs, output: Output, *, stop: Stop,
        report: Report) -> Summary:
    """Write the page to the output file and report its path.

    Raises UsageError, MissingInput, BadData, CannotCreate, Stopped. Memory: one image, the pixel counts of every image
    and class, and the ids.
    """
    _check_output(output)
    nets = [path.strip() for path in (inputs.named.get("net") or "").split(",") if path.strip()]
    trainings = [*(path for path in paths if is_training_path(path)), *nets]
    groups = group_paths(path for path in paths if not is_training_path(path))
    if not groups:
        raise UsageError("there is no run whose images could be shown",
                         "Give an index, CAMs or masks; `wsss show` draws the curves of trainings alone")
    compared = open_compared_runs(groups, config.titles, inputs, config.max_side)
    logs = read_last_trainings(trainings, report)
    config = dataclasses.replace(config, ids=_read_ids(config.ids, compared))
    request = _build_request(config, compared, logs)
    if _is_up_to_date(output, request, is_truth_known=compared.truth_folder is None):
        if output.dry_run:
            report.info(f"{output.path} is up to date.")
        else:
            report.print_path(output.path)
        return Summary(num_up_to_date=1, num_images=len(compared.ids), written_noun="page")
    if output.dry_run:
        report.info(f"Would write {output.path} with {_count(len(compared.runs), 'run')} over "
                    f"{_count(len(compared.ids), 'image')}.")
        return Summary()
    writer = FolderOutput(dataclasses.replace(output, path=output.path.parent), report)
    page = _Page(config, compared, logs, _read_nets(trainings), stop, report)
    writer.write_chunks(output.path.name, page.render(request))
    page.report_problems()
    return Summary(num_written=writer.num_written, num_up_to_date=writer.num_up_to_date, num_images=len(compared.ids),
                   written_noun="page")


def _check_output(output: Output) -> None:
    """Raise UsageError for a path that is not that of a web page, CannotCreate for a folder."""
    output.check_not_folder()
    if output.path.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"-o {output.path} does not end in .html", "Use for example -o report.html")


def _read_nets(paths: Sequence[str]) -> list[Chain]:
    """Return the history of each network. Raises BadData for a file that is none."""
    chains, nets = [], dict.fromkeys(path for path in paths if path.endswith(NET_SUFFIX))
    names = [Path(path).name for path in nets]
    for path in nets:
        description = read_verified_description(path)
        weights = description.get("initial_weights") or {}
        files = {weights["sha256"]: str(weights["name"])} if {"sha256", "name"} <= weights.keys() else {}
        name = Path(path).name if names.count(Path(path).name) == 1 else path
        chains.append(Chain(name, description["sha256"], description["provenance"], files))
    return chains


def _read_ids(given: tuple[str, ...], compared: ComparedRuns) -> tuple[str, ...]:
    """Return the ids that were given, or those in a text file. Raises MissingInput for one that is in no image."""
    known = set(compared.ids)
    if len(given) == 1 and given[0] not in known and Path(given[0]).is_file():
        lines = Path(given[0]).read_text(encoding="utf-8-sig", errors="replace").splitlines()
        given = tuple(line.strip() for line in lines if line.strip())
    unknown = [item_id for item_id in given if item_id not in known]
    if unknown:
        raise MissingInput(f"there is no image {unknown[0]} in all of the runs", "See `wsss info` for the ids of the "
                           "images; --ids also takes a text file with one id per line")
    return tuple(dict.fromkeys(given))


def _build_request(config: ReportConfig, compared: ComparedRuns, logs: Logs) -> dict[str, Any]:
    """Return everything that the page depends on, except for masks in a folder."""
    indexes = sorted({source.index.digest for source in compared.sources.values()})
    return {"config": to_json_dict(config), "runs": {run.title: run.run.digest for run in compared.runs},
            "indexes": indexes, "images": hash_json(compared.ids), "trainings": sorted(logs), "logs": hash_json(logs),
            "truth": compared.truth_folder is not None}


def _is_up_to_date(output: Output, request: dict[str, Any], *, is_truth_known: bool) -> bool:
    """Return whether the output is a page with these runs and settings. Raises CannotCreate if it is another file."""
    if output.force or not output.path.exists():
        return False
    existing = find_request(output.path)
    changed = "" if existing is None else describe_differences(existing, request)
    if existing is None or changed:
        message = f"was made with different settings or runs ({changed})" if changed else "is another file"
        raise CannotCreate(f"already exists and {message}", "Use --force to replace it, or choose another --output",
                           where=str(output.path))
    return is_truth_known


class _Page:
    """Scores the images, chooses those of the gallery, and encodes them one by one."""

    def __init__(self, config: ReportConfig, compared: ComparedRuns, logs: Logs, nets: list[Chain], stop: Stop,
                 report: Report) -> None:
        self._config, self._compared, self._stop, self._report = config, compared, stop, report
        self._logs, self._nets = logs, nets
        self._classes, self._num_classes = compared.classes, len(compared.classes) - 1
        self._truth_ids = [item_id for item_id in compared.ids if compared.has_comparable_truth
                           and compared.has_truth(item_id)]
        self._sweeps: dict[int, tuple[Sequence[float], list[float], float | None]] = {}
        self._backgrounds = [""] * len(compared.runs)
        self._readers = self._open_readers()
        self._scores = RunScores(self._readers, compared, self._num_classes, compared.ignore_index,
                                 has_background=bool(self._classes[0]),
                                 has_comparable_truth=bool(self._truth_ids))
        layers = build_layers(self._readers, self._backgrounds, has_truth=bool(self._truth_ids))
        self._layers = layers
        self._encoder = ImageEncoder(self._readers, layers, compared.sources, compared, self._num_classes,
                                     config.max_side)

    def _open_readers(self) -> list[PredictionReader]:
        """Return the readers of the runs, CAMs without a background with the given or the best one."""
        readers = [PredictionReader(run) for run in self._compared.runs]
        for position, reader in enumerate(readers):
            if reader.can_read_masks:
                continue
            background = self._choose_background(position, reader)
            if background is not None:
                readers[position] = PredictionReader(self._compared.runs[position], background)
                self._backgrounds[position] = str(background)
        return readers

    def _choose_background(self, position: int, reader: PredictionReader) -> Background | None:
        """Return the background of CAMs: the given one, or the constant with the best mean IoU; None if unknown."""
        given = None if self._config.background == _SWEEP else resolve_background(self._config.background)[0]
        if not self._truth_ids:
            return given
        self._report.start_progress(f"sweeping thresholds of {reader.title}", len(self._truth_ids))
        means = sweep_thresholds(reader, self._compared, self._truth_ids, self._num_classes,
                                 self._compared.ignore_index, self._advance)
        if np.isnan(means).all():
            return given
        best = THRESHOLDS[int(np.nanargmax(means))]
        chosen = best if given is None else given.values[0] if given.rule == "constant" else None
        self._sweeps[position] = (THRESHOLDS, means.tolist(), chosen)
        return given or Background("constant", (best,))

    def _advance(self) -> None:
        if self._stop.requested:
            raise Stopped("stopped before the end", "Run the same command again")
        self._report.advance()

    def render(self, request: dict[str, Any]) -> Iterator[bytes]:
        """Yield the page in blocks of bytes."""
        self._report_left_out()
        self._report.start_progress("scoring", len(self._compared.ids))
        for item_id in self._compared.ids:
            self._scores.add(item_id)
            self._advance()
        ids = self._choose_ids()
        intervals = compute_intervals(self._scores.scores, self._config.draws, self._config.seed)
        yield from render_page(self._describe(ids, request, intervals), self._iterate_chunks(ids))

    def _report_left_out(self) -> None:
        for title, num_left_out, num_images in self._compared.left_out:
            self._report.info(f"Left out {num_left_out} of the {num_images} images of {title}, which are not in all "
                              "runs.")
        if not self._compared.has_comparable_truth:
            self._report.info("The classes of the index are not those of the runs, so its ground truth is not used.")

    def _choose_ids(self) -> list[str]:
        """Return the ids of the gallery. Raises UsageError if there are no values of --sort."""
        config, ids = self._config, self._compared.ids
        values = self._get_sort_values()
        if config.ids:
            return list(config.ids)
        if config.sample == "worst":
            if self._sort_key == "id":
                raise UsageError("--sample worst needs something to sort by", "Add ground truth, or use for example "
                                 "--sort disagreement, which compares two runs of masks")
            ids = sort_worst_first(ids, values, is_high_bad=self._sort_key == "disagreement")
        return choose_images(ids, config.limit, config.sample, config.seed)

    @property
    def _sort_key(self) -> str:
        return self._config.sort or ("iou" if self._scores.scores else "id")

    def _get_sort_values(self) -> dict[str, float | None]:
        """Return the values of --sort by id. Raises UsageError if there are none."""
        key, scores = self._sort_key, self._scores
        if key == "id":
            return {}
        first = next(iter(scores.scores.values()), None)
        values = {"iou": {} if first is None else {item_id: first.compute_image_iou(item_id)
                                                   for item_id in first.image_ids},
                  "disagreement": next(iter(scores.disagreements.values()), {}), "score": scores.best_scores}[key]
        if not values:
            needed = {"iou": "ground truth and a run of masks or CAMs", "score": "CAMs with scores",
                      "disagreement": "two runs of masks, or CAMs with --background"}[key]
            raise UsageError(f"--sort {key} needs {needed}", "Add such a run, or use --sort id")
        return values

    def _iterate_chunks(self, ids: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        self._report.start_progress("encoding images", len(ids))
        for start in range(0, len(ids), IMAGES_PER_CHUNK):
            chunk = []
            for item_id in ids[start:start + IMAGES_PER_CHUNK]:
                chunk.append(self._encoder.encode(item_id))
                self._advance()
            yield chunk

    def _describe(self, ids: Sequence[str], request: dict[str, Any], intervals: Intervals) -> PageContents:
        config, compared = self._config, self._compared
        title = config.title or join_names([run.title for run in compared.runs]) or "Images"
        summary = build_summary(len(compared.ids), len(ids), len(self._truth_ids), [run.title for run in compared.runs])
        return PageContents(title, summary, self._list_notes(), build_score_rows(
            [(run.title, run.kind, background) for run, background in zip(compared.runs, self._backgrounds,
                                                                         strict=True)],
            self._scores, intervals), self._build_sections(intervals), lambda: self._describe_data(ids), request)

    def _list_notes(self) -> list[str]:
        notes = [f"{num_left_out} of the {num_images} images of {title} are left out, because they are not in all runs."
                 for title, num_left_out, num_images in self._compared.left_out]
        if not self._compared.has_comparable_truth:
            notes.append("The classes of the index are not those of the runs, so its ground truth is not used.")
        if any(chosen is not None for _, _, chosen in self._sweeps.values()) and self._config.background == _SWEEP:
            notes.append("The background score of CAMs was chosen on the ground truth that is scored, so their scores "
                         "are optimistic.")
        if self._scores.problems:
            notes.append(f"{_count(len(self._scores.problems), 'image')} could not be scored; "
                         "the cards of these images say why.")
        return notes

    def _build_sections(self, intervals: Intervals) -> list[Section]:
        figures = []
        for position, run in enumerate(self._compared.runs):
            score, interval = self._scores.scores.get(position), intervals.get(position)
            low, high = (None, None) if interval is None else (interval.class_low, interval.class_high)
            figures.append(RunFigures(run.title, None if score is None else score.compute_class_iou(), low, high,
                                      None if score is None else score.matrix, self._sweeps.get(position)))
        labels = [tags for item_id in self._compared.ids if (tags := self._read_tags(item_id))]
        counts = count_cooccurrences(labels, len(self._compared.index_classes) - 1)
        runs = [Chain(run.name, run.run.digest, run.run.first.provenance, kind=run.kind, classes=run.run.classes,
                      parts=tuple(shard.digest for shard in run.run.shards)) for run in self._compared.runs]
        steps = list_steps([*self._nets, *runs])
        provenance = plot_steps(steps, [run.name for run in self._compared.runs]) if steps else ""
        return build_sections(self._classes, figures, self._compared.index_classes, counts, self._logs, provenance)

    def _read_tags(self, item_id: str) -> tuple[int, ...] | None:
        source = self._compared.sources[item_id]
        return None if item_id in source.index.errors else source.read_labels(item_id)

    def _describe_data(self, ids: Sequence[str]) -> dict[str, Any]:
        """Return what the scripts read; called once all images are encoded."""
        images = [describe_image(item_id, self._encoder.find_size(item_id), self._find_full_size(item_id),
                                 self._read_tags(item_id), self._encoder.class_ids.get(item_id, ()), self._scores)
                  for item_id in ids]
        return {"classes": describe_classes(self._classes), "tags": list(self._compared.index_classes),
                "layers": self._layers, "runs": [run.title for run in self._compared.runs],
                "scored": list(self._scores.scores), "pairs": [list(pair) for pair in self._scores.disagreements],
                "sort": self._sort_key, "perChunk": IMAGES_PER_CHUNK, "images": images}

    def _find_full_size(self, item_id: str) -> tuple[int, int] | None:
        try:
            return self._compared.read_size(item_id)
        except BadData:
            return None

    def report_problems(self) -> None:
        """Report photographs and ground truth that could not be read."""
        for problems, noun, outcome in ((self._encoder.problems, "photograph", "could not be read"),
                                        (self._scores.problems, "image", "could not be scored")):
            if problems:
                reasons = list(problems.values())
                more = f"; and {len(reasons) - _NUM_NAMED} more" if len(reasons) > _NUM_NAMED else ""
                self._report.info(f"{_count(len(problems), noun)} {outcome}: {'; '.join(reasons[:_NUM_NAMED])}{more}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
