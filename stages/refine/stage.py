"""`refine`: make CAMs follow the object boundaries in the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.errors import BadData, UsageError
from stages.flow.background import resolve_background
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import MapWork
from stages.flow.packages import prepare_crf
from stages.kernels.cell_pairs import compute_smallest_map_size
from stages.nets.net_description import read_verified_description
from stages.refine.config import DEFAULT_BACKGROUNDS, CrfConfig, IrnConfig, PamrConfig, PsaConfig
from stages.settings import to_json_dict
from stages.shards import Shard

WALK_WORKERS = {"psa": "stages.refine.workers:PsaWorker", "irn": "stages.refine.workers:IrnWorker"}


def run_crf(config: CrfConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the CRF posteriors of `cams` shards at full size. Raises Unavailable without the engine, UsageError."""
    background, recorded = resolve_background(config.background or DEFAULT_BACKGROUNDS[config.preset])
    if background.rule == "two-thresholds":
        raise UsageError("--background two-thresholds gives no unary potentials for a CRF",
                         "Use --background constant:V or power:A")
    if not output.dry_run:
        prepare_crf(report, config.engine)
    settings = {**to_json_dict(config), "background": recorded}
    work = MapWork("refine", "crf", "cams", ("cams",), "stages.refine.workers:CrfWorker", config, settings,
                   root=inputs.root, threads=config.threads)
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
    if not config.dilations:
        raise UsageError("--dilations is empty", "Give at least one, for example --dilations 1,2,4,8,12,24")
    recorded = _resolve_background_row(config.background)
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("refine", "pamr", "cams", ("cams",), "stages.refine.workers:PamrWorker", config,
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
