"""`refine`: maps that follow the borders in the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.errors import BadData, UsageError
from stages.flow.background import resolve_background
from stages.flow.device import resolve_device
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.map_loop import run_map
from stages.flow.packages import need_pydensecrf
from stages.flow.work import MapWork
from stages.kernels.pairs import smallest_map
from stages.nets.files import read_net
from stages.refine.config import BACKGROUNDS, CrfConfig, IrnConfig, PamrConfig, PsaConfig
from stages.settings import as_plain
from stages.shards import Shard

WALKERS = {"psa": "stages.refine.workers:PsaWorker", "irn": "stages.refine.workers:IrnWorker"}


def run_crf(config: CrfConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write the posteriors of `cams` shards at full size. Raises Unavailable without pydensecrf, UsageError."""
    need_pydensecrf()
    background, recorded = resolve_background(config.background or BACKGROUNDS[config.preset])
    if background.rule == "two-thresholds":
        raise UsageError("--background two-thresholds has no unary", "give constant:V or power:A")
    plain = {**as_plain(config), "background": recorded, "engine": "pydensecrf"}
    work = MapWork("refine", "crf", "cams", ("cams",), "stages.refine.workers:CrfWorker", config, plain,
                   root=inputs.root, threads=config.threads)
    return run_map(work, inputs, output, stop=stop, report=report)


def run_psa(config: PsaConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write `cams` shards after a random walk by a net of `train-aff psa`. Raises UsageError, BadData, MissingInput.

    Tells of each shard how many of its images are too small for any pair of cells (IRN's walk has pairs everywhere).
    """
    return _run_walk("psa", config, {"background": _row_of_background(config.background)}, inputs, output, stop, report)


def run_irn(config: IrnConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write `cams` shards after a random walk by a net of `train-aff irn`. Raises BadData, MissingInput."""
    return _run_walk("irn", config, {}, inputs, output, stop, report)


def _run_walk(method: str, config: IrnConfig | PsaConfig, recorded: dict[str, object], inputs: Inputs, output: Output,
              stop: Stop, report: Report) -> Summary:
    net = inputs.require("net")
    _, description = read_net(net)
    task, head = description["task"], description["architecture"]["head"]
    if (task, head) != ("affinity", method):
        given = f"{task} of {head}" if task == "affinity" else task
        raise BadData(f"is a net for {given}, not for affinity of {method}", f"give a net of train-aff {method}",
                      where=net)
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("refine", method, "cams", ("cams",), WALKERS[method], config, {**as_plain(settings), **recorded},
                   named={"net": net}, digests={"net": description["sha256"]}, root=inputs.root,
                   batch_size=config.batch_size, threads=config.threads)
    told = _Telling(report, description) if method == "psa" else report
    return run_map(work, inputs, output, stop=stop, report=told)


class _Telling:
    """A report that also tells how many images of a finished shard no step of a walk changes."""

    def __init__(self, report: Report, net: Mapping[str, Any]) -> None:
        self.report, self.stride, self.radius = report, int(net["stride"]), int(net["architecture"]["radius"])
        self.begin, self.advance, self.tell, self.detail = report.begin, report.advance, report.tell, report.detail

    def finished(self, path: Path) -> None:
        """Count the images with fewer cells than a pair needs, and hand the path on."""
        shard, (down, across) = Shard(path), smallest_map(self.radius)
        grids = [shape[1:] for _, shape in shard.shapes("cam") if shape]
        small = sum(height < down or width < across for height, width in grids)
        if small:
            self.tell(f"{path}: {small} of {len(shard.ids)} images have less than {down} x {across} cells of "
                      f"{self.stride} pixels, so their maps did not walk")
        self.report.finished(path)


def run_pamr(config: PamrConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write `cams` shards after pixel-adaptive refinement. Raises UsageError, BadData, MissingInput."""
    if not config.dilations:
        raise UsageError("--dilations is empty", "give for example --dilations 1,2,4,8,12,24")
    recorded = _row_of_background(config.background)
    settings = replace(config, device=resolve_device(config.device))
    work = MapWork("refine", "pamr", "cams", ("cams",), "stages.refine.workers:PamrWorker", config,
                   {**as_plain(settings), "background": recorded}, root=inputs.root, threads=config.threads)
    return run_map(work, inputs, output, stop=stop, report=report)


def _row_of_background(told: str) -> object:
    """Return what is recorded of a background that is to be a row of the maps. Raises UsageError, BadData."""
    if told == "none":
        return told
    background, recorded = resolve_background(told)
    if background.rule == "two-thresholds":
        raise UsageError("--background two-thresholds is no row of scores", "give constant:V, power:A or none")
    return recorded
