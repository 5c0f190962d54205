"""`refine`: make CAMs follow the object boundaries in the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.errors import BadData, UsageError
from stages.flow.background import resolve_background
from stages.flow.crf_engine import resolve_engine
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.item_arrays import extract_mask, read_image_size, resize_to_image_in_bands
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import MapWork
from stages.flow.packages import prepare_crf
from stages.flow.parts import Part
from stages.flow.region_source import RegionSource
from stages.kernels.cell_pairs import compute_smallest_map_size
from stages.kernels.region_selection import convert_labels, select_regions
from stages.kernels.region_vote import number_ids, sum_in_regions, vote_in_regions
from stages.nets.net_description import read_verified_description
from stages.refine.config import (
    DEFAULT_BACKGROUNDS,
    CrfConfig,
    IrnConfig,
    PamrConfig,
    ParConfig,
    PsaConfig,
    RegionsConfig,
)
from stages.settings import to_json_dict
from stages.shards import Item, Run, Shard

_NO_REGION = 0
WALK_WORKERS = {"psa": "stages.refine.workers:PsaWorker", "irn": "stages.refine.workers:IrnWorker"}


def run_crf(config: CrfConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the CRF posteriors of `cams` shards at full size.

    Raises Unavailable without the package of the engine or the GPU, UsageError.
    """
    background, recorded = resolve_background(config.background or DEFAULT_BACKGROUNDS[config.preset])
    if background.rule == "two-thresholds":
        raise UsageError("--background two-thresholds gives no unary potentials for a CRF",
                         "Use --background constant:V or power:A")
    engine, device = resolve_engine(config.engine, config.device)
    if not output.dry_run:
        prepare_crf(report, engine)
    settings = {**to_json_dict(config), "background": recorded, "engine": engine, "device": device}
    if engine != "torch":  # the others compute one image at a time on the CPU, whatever these say
        del settings["batch_size"], settings["device"]
    work = MapWork("refine", "crf", "cams", ("cams",), "stages.refine.workers:CrfWorker", config, settings,
                   root=inputs.root, batch_size=settings.get("batch_size", 1), threads=config.threads)
    return run_map_stage(work, inputs, output, stop=stop, report=report)


def run_psa(config: PsaConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write `cams` shards after a random walk with a network of `train-aff psa`.

    Reports for each shard how many of its images are too small for any pair of cells (IRN's walk has pairs
    everywhere). Raises UsageError, BadData, MissingInput.
    """
    recorded = {"background": _resolve_background_row(config.background)}
    return _run_walk("psa", config, recorded, inputs, output, stop, report)


def run_irn(config: IrnConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write `cams` shards after a random walk with a network of `train-aff irn`. Raises BadData, MissingInput."""
    return _run_walk("irn", config, {}, inputs, output, stop, report)


def _run_walk(method: str, config: IrnConfig | PsaConfig, recorded: dict[str, object], inputs: Inputs, output: Output,
              stop: Stop, report: Report) -> Summary:
    net = inputs.require("net")
    description = read_verified_description(net)
    task, head = description["task"], description["architecture"]["head"]
    if (task, head) != ("affinity", method):
        purpose = f"{head} affinities" if task == "affinity" else task
        raise BadData(f"the network was trained for {purpose}, not for {method} affinities",
                      f"Use a network trained by `wsss train-aff {method}`", where=net)
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("refine", method, "cams", ("cams",), WALK_WORKERS[method], config,
                   {**to_json_dict(settings), **recorded}, named={"net": net},
                   digests={"net": description["sha256"]}, root=inputs.root, batch_size=config.batch_size,
                   threads=config.threads)
    walk_report = _SmallImageReport(report, description) if method == "psa" else report
    return run_map_stage(work, inputs, output, stop=stop, report=walk_report)


class _SmallImageReport:
    """A report that also says how many images of a finished shard are too small for the random walk."""

    def __init__(self, report: Report, net: Mapping[str, Any]) -> None:
        self.report, self.stride, self.radius = report, int(net["stride"]), int(net["architecture"]["radius"])
        self.start_phase, self.start_progress = report.start_phase, report.start_progress
        self.set_total, self.advance = report.set_total, report.advance
        self.info, self.debug = report.info, report.debug

    def print_path(self, path: Path) -> None:
        """Count the images with fewer cells than a pair needs, and pass the path on."""
        shard, (min_rows, min_columns) = Shard(path), compute_smallest_map_size(self.radius)
        grids = [shape[1:] for _, shape in shard.iterate_shapes("cam") if shape]
        num_small = sum(height < min_rows or width < min_columns for height, width in grids)
        if num_small:
            self.info(f"{path}: The random walk did not change {num_small} of {len(shard.ids)} images, which are "
                      f"smaller than {min_rows} x {min_columns} cells of {self.stride} pixels.")
        self.report.print_path(path)


def run_pamr(config: PamrConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write `cams` shards after pixel-adaptive mask refinement. Raises UsageError, BadData, MissingInput."""
    return _run_by_colours("pamr", config, inputs, output, stop, report)


def run_par(config: ParConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write `cams` shards after pixel-adaptive refinement (PAR). Raises UsageError, BadData, MissingInput."""
    return _run_by_colours("par", config, inputs, output, stop, report)


def run_regions(config: RegionsConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write `cams` or `masks` shards that agree with the regions of a run, in which each region is one value.

    Raises UsageError for maps with a rule for masks and the reverse, BadData, MissingInput.
    """
    regions = inputs.require("regions")
    kind = "cams" if config.rule == "mean" else "masks"
    work = MapWork("refine", "regions", kind, ("cams", "masks"), "stages.refine.stage:RegionWorker", config,
                   to_json_dict(config), named={"regions": regions},
                   digests={"regions": Run([regions], "regions").digest}, threads=config.threads, needs_torch=False)
    return run_map_stage(work, inputs, output, stop=stop, report=report)


def _run_by_colours(method: str, config: PamrConfig | ParConfig, inputs: Inputs, output: Output, stop: Stop,
                    report: Report) -> Summary:
    if not config.dilations:
        raise UsageError("--dilations is empty", "Give at least one, for example --dilations 1,2,4,8,12,24")
    recorded = _resolve_background_row(config.background)
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("refine", method, "cams", ("cams",), "stages.refine.workers:ColourWorker", config,
                   {**to_json_dict(settings), "background": recorded}, root=inputs.root, threads=config.threads)
    return run_map_stage(work, inputs, output, stop=stop, report=report)


def _resolve_background_row(text: str) -> object:
    """Return what the provenance records of a background that is refined with the CAMs. Raises UsageError, BadData."""
    if text == "none":
        return text
    background, recorded = resolve_background(text)
    if background.rule == "two-thresholds":
        raise UsageError("--background two-thresholds gives no background scores that could be refined with the CAMs",
                         "Use --background constant:V, power:A or none")
    return recorded


class RegionWorker:
    """Holds the regions and the settings."""

    def __init__(self, work: MapWork) -> None:
        self.config, self.regions = work.config, RegionSource(str(work.named["regions"]))

    def open(self, part: Part, source: Shard, index: Shard) -> _RegionPart:
        """Open a part. Raises UsageError if the rule is not for the kind of the input, BadData for other images."""
        reads = "cams" if self.config.rule == "mean" else "masks"
        if source.kind != reads:
            remedy = ("Use --rule vote or --rule sepl for masks" if reads == "cams" else
                      "Use --rule mean for CAMs, or make masks of them first with `wsss pseudo`")
            raise UsageError(f"--rule {self.config.rule} needs {reads}, but this is a shard of {source.kind}", remedy,
                             where=str(source.path))
        self.regions.check_images(index)
        return _RegionPart(self.regions, self.config, source)


class _RegionPart:
    """The CAMs or masks of one part."""

    def __init__(self, regions: RegionSource, config: RegionsConfig, source: Shard) -> None:
        self.regions, self.config, self.source = regions, config, source
        self.classes, self.images = source.classes, None
        self.root_attrs: Mapping[str, Any] = (
            {"background": source.attribute("background")} if source.kind == "cams" else {})

    def batch_key(self, item_id: str) -> None:
        """Return None: images of any size can be batched together."""

    def count_pixels(self, item_id: str) -> int:
        """Return 0: images are processed one by one."""
        return 0

    def load(self, item_id: str) -> tuple[Item, np.ndarray]:
        """Load the item and its regions (H, W). Raises BadData if there are none or their size differs."""
        item = self.source.item(item_id)
        size = read_image_size(item) if self.source.kind == "cams" else item.datasets["mask"].shape
        return item, self.regions.read(item_id, size, size)

    def compute(self, loaded: Sequence[tuple[str, tuple[Item, np.ndarray]]]) -> list[Item]:
        """Compute the refined CAMs or masks of a batch of images, one item per image."""
        build = self._average_cams if self.source.kind == "cams" else self._correct_mask
        return [build(item, regions) for _, (item, regions) in loaded]

    def _correct_mask(self, item: Item, regions: np.ndarray) -> Item:
        mask = extract_mask(item, len(self.classes) - 1)
        ignore = int(np.iinfo(mask.dtype).max)
        if self.config.rule == "vote":
            corrected = vote_in_regions(mask, regions, skip=_NO_REGION, ignore=ignore)
        else:
            corrected = select_regions(mask, convert_labels(regions, skip=_NO_REGION), ignore=ignore)
            if not self.classes[0]:
                corrected[corrected == 0] = ignore  # without a background class, these pixels are unknown
        return Item(item.id, {"mask": corrected})

    def _average_cams(self, item: Item, regions: np.ndarray) -> Item:
        size, num_classes = read_image_size(item), len(self.classes) - 1
        region_ids, positions = number_ids(regions)
        sums, areas = np.zeros((len(item.datasets["cam"]), len(region_ids))), np.zeros(len(region_ids))
        for band, scores, _ in resize_to_image_in_bands(item, num_classes):
            sums += sum_in_regions(scores, positions[band], len(region_ids))
            areas += np.bincount(positions[band].ravel(), minlength=len(region_ids))
        means = (sums / areas).astype(np.float32)
        cam = np.empty((len(sums), *size), np.uint8)
        for band, scores, _ in resize_to_image_in_bands(item, num_classes):
            averages = np.where(regions[band] == _NO_REGION, scores, means[:, positions[band]])
            cam[:, band] = np.round(averages * 255).clip(0, 255)
        attrs = {"height": size[0], "width": size[1], "covers": np.array(size)}
        return Item(item.id, {"class_ids": item.datasets["class_ids"], "cam": cam}, attrs)
