"""`regions`: divides images into regions without classes."""

from __future__ import annotations

from dataclasses import replace

from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.flow.image_inputs import index_image_files, select_inputs
from stages.flow.map_loop import run_map_stage
from stages.flow.map_work import MapWork
from stages.regions.config import SuperpixelsConfig
from stages.regions.superpixels import require_scikit_image
from stages.settings import to_json_dict


def run_superpixels(config: SuperpixelsConfig, inputs: Inputs, output: Output, *, stop: Stop,
                    report: Report) -> Summary:
    """Write the superpixels of an index's images, or of image files. Raises UsageError, MissingInput, Unavailable."""
    require_scikit_image()
    inputs, output, files = select_inputs(inputs, output, "regions superpixels", "regions", report)
    if files:
        index = index_image_files(files, ("background",), output, stop, report, with_pictures=False)
        if index is None:
            report.info(f"Would compute the superpixels of {len(files)} image file{'s' * (len(files) > 1)}.")
            return Summary()
        inputs = replace(inputs, paths=[str(index)])
    work = MapWork("regions", "superpixels", "regions", ("index",), "stages.regions.workers:SuperpixelsWorker", config,
                   to_json_dict(config), root=inputs.root, shard_size=config.shard_size, needs_torch=False)
    return run_map_stage(work, inputs, output, stop=stop, report=report)
