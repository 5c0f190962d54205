"""`wsss train-aff psa | irn`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.train_aff.config import IrnConfig, PsaConfig
from wsss_cli.command import Call, add, group
from wsss_cli.options import FILE, REPLACE, ROOT, TRAIN, Named

app = group("train-aff", "Train a network that tells which neighbouring cells belong together.")


def _psa(call: Call) -> Summary:
    from stages.train_aff.stage import run_psa
    return call.run(run_psa)


def _irn(call: Call) -> Summary:
    from stages.train_aff.stage import run_irn
    return call.run(run_irn)


_NAMED = (Named("cams", "RUN", "A run of wsss cams."),
          Named("weights", "FILE|TAG", "Initial weights: a net of train-cls, .pth, .pt, or a tag that timm or "
                "torchvision know.", required=False))

add(app, "psa", stage="train-aff psa", run=_psa, config=PsaConfig, inputs="INDEX...",
    example="wsss train-aff psa train.h5 --cams cams --weights cam.safetensors --stride 16 -o affinity.safetensors",
    text="AffinityNet on the areas that class activation maps are sure of: at two backgrounds, each fitted to the "
         "image by a dense CRF. Reads images of shards of kind index, and class_ids and cam of shards of kind cams, "
         "joined by id. Writes a net (.safetensors) for refine psa.",
    named=_NAMED, extra=(FILE, ROOT, REPLACE, TRAIN))

add(app, "irn", stage="train-aff irn", run=_irn, config=IrnConfig, inputs="INDEX...",
    example="wsss train-aff irn train.h5 --cams cams --weights cam.safetensors --stride 16 -o irn.safetensors",
    text="IRNet on the areas that class activation maps are sure of: at two thresholds, each fitted to the image by a "
         "dense CRF. Learns where boundaries are, and where from each cell the centre of its object is; the backbone "
         "stays as it is. Reads images of shards of kind index, and class_ids and cam of shards of kind cams, joined "
         "by id. Writes a net (.safetensors) for refine irn.",
    named=_NAMED, extra=(FILE, ROOT, REPLACE, TRAIN))
