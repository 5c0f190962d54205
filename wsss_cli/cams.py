"""`wsss cams cnn`."""

from __future__ import annotations

from stages.cams.config import ClipEsConfig, CnnConfig, GradcamConfig, MctformerConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call, add, group
from wsss_cli.options import CLIP, MAP, OUTPUT, REFUSED, REPLACE, ROOT, Named

app = group("cams", "Class activation maps.")


def _cnn(call: Call) -> Summary:
    from stages.cams.stage import run_cnn
    return call.run(run_cnn)


add(app, "cnn", stage="cams cnn", run=_cnn, config=CnnConfig, inputs="INDEX...",
    example="wsss cams cnn train.h5 --net cam.safetensors -o cams",
    text="Maps of a classifier of train-cls, over scales and mirror images. Reads images and labels of shards of "
         "kind index. Writes shards of kind cams: class_ids, cam (foreground only, each divided by its maximum) and "
         "scores.",
    named=(Named("net", "FILE", "A net of train-cls."),), extra=(OUTPUT, ROOT, REPLACE, MAP, REFUSED))


def _clip_es(call: Call) -> Summary:
    from stages.cams.stage import run_clip_es
    return call.run(run_clip_es)


add(app, "clip-es", stage="cams clip-es", run=_clip_es, config=ClipEsConfig, inputs="INDEX|IMAGE...",
    example="wsss cams clip-es train.h5 -o cams",
    text="Maps of a frozen CLIP, so that no net is to be trained: softmax-GradCAM, refined by its attention. Reads "
         "images and labels of shards of kind index, or image files (then a picture OUT/<id>.png is written beside). "
         "Writes shards of kind cams: class_ids, cam (foreground only, each between 0 and 1, at patch resolution) and "
         "scores.",
    named=(*CLIP,
           Named("save_raw", "RUN", "Also write the unrefined maps, as a run of their own.", required=False)),
    extra=(OUTPUT, ROOT, REPLACE, MAP, REFUSED))


def _mctformer(call: Call) -> Summary:
    from stages.cams.stage import run_mctformer
    return call.run(run_mctformer)


add(app, "mctformer", stage="cams mctformer", run=_mctformer, config=MctformerConfig, inputs="INDEX...",
    example="wsss cams mctformer train.h5 --net mct.safetensors -o cams",
    text="Maps of an MCTformer: what its class tokens attend to, fused with its patch classifier and refined by the "
         "affinity of the patches. Reads images and labels of shards of kind index. Writes shards of kind cams: "
         "class_ids, cam (foreground only, each stretched from 0 to 1, at patch resolution) and scores.",
    named=(Named("net", "FILE", "A net of train-cls mctformer."),), extra=(OUTPUT, ROOT, REPLACE, MAP, REFUSED))


def _gradcam(call: Call) -> Summary:
    from stages.cams.stage import run_gradcam
    return call.run(run_gradcam)


add(app, "gradcam", stage="cams gradcam", run=_gradcam, config=GradcamConfig, inputs="INDEX...",
    example="wsss cams gradcam train.h5 --net timm:resnet50 --weights mine.pth --layer layer4 -o cams",
    text="Grad-CAM of any classifier (a net of train-cls or another) at any layer. Reads images and labels of shards "
         "of kind index. Writes shards of kind cams: class_ids, cam (foreground only, each divided by its maximum) and "
         "scores.",
    named=(Named("net", "FILE|NAME", "A net of train-cls, or a network of timm or torchvision."),
           Named("weights", "FILE", "With a NAME: its weights, with one output per class of the index.",
                 required=False)),
    extra=(OUTPUT, ROOT, REPLACE, MAP, REFUSED))
