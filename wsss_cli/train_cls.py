"""`wsss train-cls cam`."""

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
from wsss_cli.command import Call, add, group
from wsss_cli.options import COLLAPSE, FILE, PREVIEW, REPLACE, ROOT, TRAIN, Named, Variants

app = group("train-cls", "Train a classifier from image tags.")
WEIGHTS = Named("weights", "FILE|TAG", "Initial weights: .safetensors, .pth, .pt, or a tag that timm or torchvision "
                "know.", required=False)


def _run(method: str, call: Call) -> Summary:
    from stages.train_cls.stage import run
    return run(method, call.config, call.inputs, call.output, stop=call.stop, report=call.report)


def _csd(call: Call) -> Summary:
    if not call.values["preview"]:
        return _run("csd", call)
    from stages.train_cls.stage import preview
    return preview(call.config, call.inputs, call.output, call.values["preview"], report=call.report)


_NET = "--weights mobilenet_v2.pth --stride 16 "


def _add(method: str, config: type, example: str, text: str, *more: Named, net: str = _NET,
         output: str = "cam.safetensors") -> None:
    add(app, method, stage=f"train-cls {method}", run=partial(_run, method), config=config, inputs="INDEX...",
        example=f"wsss train-cls {method} train.h5 {net}{example}-o {output}",
        text=f"{text} Reads labels and images of shards of kind index. Writes a net (.safetensors), which knows its "
             "classes, input mean and std, and stride.",
        named=(*more, WEIGHTS), extra=(FILE, ROOT, REPLACE, TRAIN, COLLAPSE))


_add("cam", CamConfig, "", "The plain multi-label classifier: global average pooling and a linear layer without bias. "
     "With --pool class-token the layer reads the class token of a vision transformer: such a net is for features and "
     "cams gradcam.")
_add("mixup", MixupConfig, "--alpha 0.2 ", "The classifier on convex combinations of images.")
_add("fmix", FmixConfig, "--alpha 1 ", "The classifier on pairs of images put together along masks of noise.")
_add("manifold-mixup", ManifoldConfig, "--mix-at input,features.6 ",
     "The classifier on hidden maps of two images, mixed at a random stage.")
_add("subcategory", SubcategoryConfig, "--clusters clusters.h5 ",
     "The classifier with a second head, which learns the clusters of the images of each class.",
     Named("clusters", "FILE", "A shard of cluster."))
_add("mctformer", MctformerConfig, "--version v2 ",
     "A vision transformer with a class token for each class (MCTformer), whose attention makes the maps of cams "
     "mctformer.", net="--weights fb_in1k ", output="mct.safetensors")

add(app, "csd", stage="train-cls csd", run=_csd, inputs="INDEX...",
    config=Variants("base", {"cam": CsdCamConfig, "mctformer": CsdMctformerConfig}),
    example=f"wsss train-cls csd train.h5 --base cam --cooc cooc.h5 --masks masks {_NET}-o csd.safetensors\n"
            "wsss train-cls csd train.h5 --base cam --cooc cooc.h5 --masks masks --preview 8 -o pairs.png",
    text="A classifier that sees an object, and the background around it, alike alone and pasted into an image of "
         "several classes (Cross-domain Semantic Decoupling). Reads labels and images of shards of kind index, mask of "
         "shards of kind masks, joined by id, and probability of a shard of kind cooc. Writes a net (.safetensors) for "
         "cams cnn or cams mctformer. With --preview, a picture of pairs instead. Settings whose defaults depend on "
         "--base show both.",
    named=(Named("cooc", "FILE", "A shard of cooc; not read without --resampling cooc.", required=False),
           Named("masks", "RUN|truth", "A run of masks, which says where objects and background are; or truth: the "
                 "index's own, recorded as full supervision."), WEIGHTS),
    extra=(FILE, ROOT, REPLACE, TRAIN, COLLAPSE, PREVIEW))
