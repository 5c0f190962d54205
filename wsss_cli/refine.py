"""`wsss refine crf | psa | irn | pamr`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.refine.config import CrfConfig, IrnConfig, PamrConfig, PsaConfig
from wsss_cli.command import Call, add, group
from wsss_cli.options import INDEX, MAP, OUTPUT, REFUSED, REPLACE, Named

app = group("refine", "Fit maps to the borders in the image.")


def _crf(call: Call) -> Summary:
    from stages.refine.stage import run_crf
    return call.run(run_crf)


def _psa(call: Call) -> Summary:
    from stages.refine.stage import run_psa
    return call.run(run_psa)


def _irn(call: Call) -> Summary:
    from stages.refine.stage import run_irn
    return call.run(run_irn)


def _pamr(call: Call) -> Summary:
    from stages.refine.stage import run_pamr
    return call.run(run_pamr)


add(app, "crf", stage="refine crf", run=_crf, config=CrfConfig, inputs="CAMS...",
    example="wsss refine crf cams --preset irn --background constant:0.27 -o crf",
    text="Dense CRF over the background and the classes present. Reads class_ids and cam of shards of kind cams, and "
         "the images of their index. Writes shards of kind cams: posteriors at the size of the image, background "
         "included.",
    extra=(OUTPUT, INDEX, REPLACE, MAP, REFUSED))

add(app, "psa", stage="refine psa", run=_psa, config=PsaConfig, inputs="CAMS...",
    example="wsss refine psa cams --net affinity.safetensors -o walked",
    text="A random walk between cells that a net of train-aff psa finds alike. Reads class_ids and cam of shards of "
         "kind cams, and the images of their index. Writes shards of kind cams on the net's grid, divided by their "
         "joint maximum; the background is a row of them unless --background is none.",
    named=(Named("net", "FILE", "A net of train-aff psa."),), extra=(OUTPUT, INDEX, REPLACE, MAP, REFUSED))

add(app, "irn", stage="refine irn", run=_irn, config=IrnConfig, inputs="CAMS...",
    example="wsss refine irn cams --net irn.safetensors -o walked",
    text="A random walk up to the boundaries that a net of train-aff irn sees. Reads class_ids and cam of shards of "
         "kind cams, and the images of their index. Writes shards of kind cams on the net's grid, divided by their "
         "joint maximum, without a background.",
    named=(Named("net", "FILE", "A net of train-aff irn."),), extra=(OUTPUT, INDEX, REPLACE, MAP, REFUSED))

add(app, "pamr", stage="refine pamr", run=_pamr, config=PamrConfig, inputs="CAMS...",
    example="wsss refine pamr cams -o refined",
    text="Pixel-adaptive mask refinement: averages over neighbours of the pixel's colour, without a net. Reads "
         "class_ids and cam of shards of kind cams, and the images of their index. Writes shards of kind cams at the "
         "size of the image (or at --grid-stride), divided by their joint maximum.",
    extra=(OUTPUT, INDEX, REPLACE, MAP, REFUSED))
