"""`wsss train-cls cam | mixup | fmix | manifold-mixup | subcategory | mctformer | csd`."""

from __future__ import annotations

from functools import partial

from stages.flow.execution import Summary
from stages.train_cls.config import (
    CamConfig,
    CsdCamConfig,
    CsdMctformerConfig,
    FmixConfig,
    ManifoldConfig,
    MctformerConfig,
    MixupConfig,
    SubcategoryConfig,
)
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import COLLAPSE, FILE, OVERWRITE, PREVIEW, ROOT, TRAINING_OPTIONS, ConfigVariants, NamedInput

app = create_group("train-cls", "Train a classifier from image tags.")
_WEIGHTS = NamedInput("weights", "FILE|TAG", "Initial weights: a .safetensors, .pth or .pt file, or a tag of timm or "
                      "torchvision.", required=False)
_NET = "--weights mobilenet_v2.pth --stride 16 "
_OPTION_GROUPS = (FILE, ROOT, OVERWRITE, TRAINING_OPTIONS, COLLAPSE)


def _run(method: str, call: Call) -> Summary:
    from stages.train_cls.stage import run
    return call.run(partial(run, method))


def _run_csd(call: Call) -> Summary:
    if not call.values["preview"]:
        return _run("csd", call)
    from stages.train_cls.stage import preview
    call.begin_work()
    return preview(call.config, call.inputs, call.output, call.values["preview"], report=call.report)


def _add(method: str, config: type, example: str, summary: str, *named_inputs: NamedInput, net: str = _NET,
         output: str = "cam.safetensors", note: str = "") -> None:
    add_command(
        app, method, stage=f"train-cls {method}", run=partial(_run, method), config=config, argument="INDEX...",
        example=f"wsss train-cls {method} train.h5 {net}{example}-o {output}", summary=summary,
        description=f"{note}Reads labels and images from index shards. Writes a net (.safetensors), which records its "
                    "classes, input mean and std, and stride.",
        named_inputs=(*named_inputs, _WEIGHTS), option_groups=_OPTION_GROUPS)


_add("cam", CamConfig, "", "Train a multi-label classifier: global average pooling and a linear layer without bias.",
     note="With --pool class-token, the layer reads the class token of a vision transformer; such a network is for "
          "features and cams gradcam. ")
_add("mixup", MixupConfig, "--alpha 0.2 ", "Train the classifier on convex combinations of images (Mixup).")
_add("fmix", FmixConfig, "--alpha 1 ", "Train the classifier on pairs of images joined by random masks (FMix).")
_add("manifold-mixup", ManifoldConfig, "--mix-at input,features.6 ",
     "Train the classifier on pairs of images mixed at a random layer (Manifold Mixup).")
_add("subcategory", SubcategoryConfig, "--clusters clusters.h5 ",
     "Train the classifier with a second head that predicts sub-categories (SC-CAM).",
     NamedInput("clusters", "FILE", "Sub-categories, made with wsss cluster."))
_add("mctformer", MctformerConfig, "--version v2 ",
     "Train MCTformer, a vision transformer with one class token per class.",
     net="--weights fb_in1k ", output="mct.safetensors",
     note="Its attention makes the CAMs of cams mctformer. ")

add_command(
    app, "csd", stage="train-cls csd", run=_run_csd, argument="INDEX...",
    config=ConfigVariants("base", {"cam": CsdCamConfig, "mctformer": CsdMctformerConfig}),
    example=f"wsss train-cls csd train.h5 --base cam --cooc cooc.h5 --masks masks {_NET}-o csd.safetensors\n"
            "wsss train-cls csd train.h5 --base cam --cooc cooc.h5 --masks masks --preview 8 -o pairs.png",
    summary="Train with Cross-domain Semantic Decoupling (CSD).",
    description="An object, and the background around it, must give the same features alone and pasted into an image "
                "of several classes. Reads labels and images from index shards, mask from masks shards (matched by "
                "image id), and probability from a cooc shard. Writes a net (.safetensors) for cams cnn or cams "
                "mctformer. Where a default depends on --base, the help shows both.",
    named_inputs=(
        NamedInput("cooc", "FILE", "Co-occurrence of classes, made with wsss cooc; only needed for --resampling cooc.",
                   required=False),
        NamedInput("masks", "RUN|truth", "Masks that separate objects from background: a run of masks, or `truth` for "
                   "the ground-truth masks of the index (recorded as full supervision)."),
        _WEIGHTS),
    option_groups=(*_OPTION_GROUPS, PREVIEW))
