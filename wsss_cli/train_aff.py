"""`wsss train-aff psa | irn`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.train_aff.config import IrnConfig, PsaConfig
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import FILE, OVERWRITE, ROOT, TRAINING_OPTIONS, NamedInput

app = create_group("train-aff", "Train a network that predicts which neighbouring pixels belong together.")
_LABELS = ("Learns only where CAMs are confident: foreground and background labels come from two thresholds, each "
           "followed by a dense CRF.")
_READS = "Reads images from index shards, and class_ids and cam from cams shards, matched by image id."


def _run_psa(call: Call) -> Summary:
    from stages.train_aff.stage import run_psa
    return call.run(run_psa)


def _run_irn(call: Call) -> Summary:
    from stages.train_aff.stage import run_irn
    return call.run(run_irn)


_NAMED_INPUTS = (
    NamedInput("cams", "RUN", "CAMs of the images, made with wsss cams."),
    NamedInput("weights", "FILE|TAG", "Initial weights: a network trained with train-cls, a .pth or .pt file, or a tag "
               "of timm or torchvision.", required=False))

add_command(
    app, "psa", stage="train-aff psa", run=_run_psa, config=PsaConfig, argument="INDEX...",
    example="wsss train-aff psa train.h5 --cams cams --weights cam.safetensors --stride 16 -o affinity.safetensors",
    summary="Train AffinityNet (PSA) on confident areas of CAMs.",
    description=f"{_LABELS} {_READS} Writes a net (.safetensors) for refine psa.",
    named_inputs=_NAMED_INPUTS, option_groups=(FILE, ROOT, OVERWRITE, TRAINING_OPTIONS))

add_command(
    app, "irn", stage="train-aff irn", run=_run_irn, config=IrnConfig, argument="INDEX...",
    example="wsss train-aff irn train.h5 --cams cams --weights cam.safetensors --stride 16 -o irn.safetensors",
    summary="Train IRNet on confident areas of CAMs: class boundaries, and displacements to object centres.",
    description=f"{_LABELS} The backbone is frozen. {_READS} Writes a net (.safetensors) for refine irn.",
    named_inputs=_NAMED_INPUTS, option_groups=(FILE, ROOT, OVERWRITE, TRAINING_OPTIONS))
