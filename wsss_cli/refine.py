"""`wsss refine crf | psa | irn | pamr | par | regions`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.refine.config import CrfConfig, IrnConfig, PamrConfig, ParConfig, PsaConfig, RegionsConfig
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import EXECUTION_OPTIONS, FAILED_IMAGES, INDEX, OUTPUT, OVERWRITE, REUSE, NamedInput

app = create_group("refine", "Refine CAMs so that they follow the borders of objects in the image.")
_READS = "Reads class_ids and cam from cams shards, and the images of their index."
_OPTION_GROUPS = (OUTPUT, INDEX, OVERWRITE, EXECUTION_OPTIONS, FAILED_IMAGES, REUSE)


def _run_crf(call: Call) -> Summary:
    from stages.refine.stage import run_crf
    return call.run(run_crf)


def _run_psa(call: Call) -> Summary:
    from stages.refine.stage import run_psa
    return call.run(run_psa)


def _run_irn(call: Call) -> Summary:
    from stages.refine.stage import run_irn
    return call.run(run_irn)


def _run_pamr(call: Call) -> Summary:
    from stages.refine.stage import run_pamr
    return call.run(run_pamr)


def _run_par(call: Call) -> Summary:
    from stages.refine.stage import run_par
    return call.run(run_par)


def _run_regions(call: Call) -> Summary:
    from stages.refine.stage import run_regions
    return call.run(run_regions)


add_command(
    app, "crf", stage="refine crf", run=_run_crf, config=CrfConfig, argument="CAMS...",
    example="wsss refine crf cams --preset irn --background constant:0.27 -o crf",
    summary="Dense CRF over the background and the classes of each image.",
    description=f"{_READS} Writes cams shards with the posteriors at image size, including the background.",
    option_groups=_OPTION_GROUPS)

add_command(
    app, "psa", stage="refine psa", run=_run_psa, config=PsaConfig, argument="CAMS...",
    example="wsss refine psa cams --net affinity.safetensors -o walked",
    summary="Random walk over the affinities predicted by AffinityNet (PSA).",
    description=f"{_READS} Writes cams shards on the grid of the network, divided by their joint maximum. They include "
                "the background unless --background is none.",
    named_inputs=(NamedInput("net", "FILE", "AffinityNet trained with train-aff psa."),), option_groups=_OPTION_GROUPS)

add_command(
    app, "irn", stage="refine irn", run=_run_irn, config=IrnConfig, argument="CAMS...",
    example="wsss refine irn cams --net irn.safetensors -o walked",
    summary="Random walk that stops at the boundaries predicted by IRNet.",
    description=f"{_READS} Writes cams shards on the grid of the network, divided by their joint maximum, without "
                "background.",
    named_inputs=(NamedInput("net", "FILE", "IRNet trained with train-aff irn."),), option_groups=_OPTION_GROUPS)

add_command(
    app, "pamr", stage="refine pamr", run=_run_pamr, config=PamrConfig, argument="CAMS...",
    example="wsss refine pamr cams -o refined",
    summary="Pixel-adaptive mask refinement: averages over neighbours of similar colour, without a network.",
    description=f"{_READS} Writes cams shards at image size (or at --grid-stride), divided by their joint maximum.",
    option_groups=_OPTION_GROUPS)

add_command(
    app, "par", stage="refine par", run=_run_par, config=ParConfig, argument="CAMS...",
    example="wsss refine par cams --background power:1 -o refined",
    summary="Pixel-adaptive refinement of AFA, WeCLIP and ExCEL: averages over neighbours that are similar or near.",
    description=f"{_READS} Writes cams shards at image size (or at --grid-stride), divided by their joint maximum.",
    option_groups=_OPTION_GROUPS)

add_command(
    app, "regions", stage="refine regions", run=_run_regions, config=RegionsConfig, argument="CAMS|MASKS...",
    example="wsss refine regions masks --regions sam --rule vote -o corrected",
    summary="Make maps or masks agree with regions, such as superpixels or those of SAM.",
    description="Reads cams or masks shards, and labels from a run of regions. Writes cams shards at image size for "
                "--rule mean, and masks shards without confidence for vote and sepl. With mean and vote, pixels in no "
                "region stay as they are.",
    named_inputs=(NamedInput("regions", "RUN", "Regions of the same images, from `wsss regions` or `wsss import "
                             "regions`."),),
    option_groups=_OPTION_GROUPS)
