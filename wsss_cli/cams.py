"""`wsss cams cnn | clip-es | excel | mctformer | gradcam`."""

from __future__ import annotations

from stages.cams.config import ClipEsConfig, CnnConfig, ExcelConfig, GradcamConfig, MctformerConfig
from stages.flow.execution import Summary
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import (
    CLIP,
    EXECUTION_OPTIONS,
    FAILED_IMAGES,
    OVERWRITE,
    REUSE,
    ROOT,
    NamedInput,
    build_image_output,
)

app = create_group("cams", "Compute class activation maps (CAMs).")
_READS = ("Reads images and labels from index shards, or image files and folders of photographs, for each of which it "
          "also draws OUT/<id>.png.")
_WORD_INPUTS = (
    *CLIP,
    NamedInput("words", "FILE|WORDS", 'Classes of image files, such as "cat; dog; wet grass = grass, lawn", or a '
               "file with one class per line, or FILE.toml; all of them get a CAM. With an index, words for its "
               "classes.", required=False),
    NamedInput("save_raw", "RUN", "Also write the CAMs before their refinement, to this run folder.",
               required=False))
_OPTION_GROUPS = (build_image_output("cams"), ROOT, OVERWRITE, EXECUTION_OPTIONS, FAILED_IMAGES, REUSE)


def _run_cnn(call: Call) -> Summary:
    from stages.cams.stage import run_cnn
    return call.run(run_cnn)


add_command(
    app, "cnn", stage="cams cnn", run=_run_cnn, config=CnnConfig, argument="INDEX|IMAGE...",
    example="wsss cams cnn train.h5 --net cam.safetensors -o cams\n"
            "wsss cams cnn photo.jpg --net cam.safetensors",
    summary="CAMs of a classifier trained with train-cls, summed over image scales and mirrored images.",
    description=f"{_READS} Writes cams shards with class_ids, cam (foreground classes only, each divided by its "
                "maximum) and scores.",
    named_inputs=(NamedInput("net", "FILE", "Classifier trained with train-cls."),), option_groups=_OPTION_GROUPS)


def _run_clip_es(call: Call) -> Summary:
    from stages.cams.stage import run_clip_es
    return call.run(run_clip_es)


add_command(
    app, "clip-es", stage="cams clip-es", run=_run_clip_es, config=ClipEsConfig, argument="INDEX|IMAGE...",
    example="wsss cams clip-es train.h5 -o cams\n"
            'wsss cams clip-es photo.jpg --words "cow; grass"',
    summary="CAMs of a frozen CLIP model, without training: softmax-GradCAM refined by attention (CLIP-ES).",
    description=f"{_READS} Writes cams shards with class_ids, cam (foreground classes only, between 0 and 1, one "
                "value per patch) and scores.",
    named_inputs=_WORD_INPUTS, option_groups=_OPTION_GROUPS)


def _run_excel(call: Call) -> Summary:
    from stages.cams.stage import run_excel
    return call.run(run_excel)


add_command(
    app, "excel", stage="cams excel", run=_run_excel, config=ExcelConfig, argument="INDEX|IMAGE...",
    example="wsss cams excel train.h5 -o cams\n"
            'wsss cams excel photo.jpg --words "cow; grass"',
    summary="CAMs of a frozen CLIP model, without training or gradients: patches are compared with words (ExCEL).",
    description=f"{_READS} Writes cams shards with class_ids, cam (foreground classes only, between 0 and 1, one "
                "value per patch of the square to which the image is resized) and scores.",
    named_inputs=_WORD_INPUTS, option_groups=_OPTION_GROUPS)


def _run_mctformer(call: Call) -> Summary:
    from stages.cams.stage import run_mctformer
    return call.run(run_mctformer)


add_command(
    app, "mctformer", stage="cams mctformer", run=_run_mctformer, config=MctformerConfig, argument="INDEX|IMAGE...",
    example="wsss cams mctformer train.h5 --net mct.safetensors -o cams\n"
            "wsss cams mctformer photo.jpg --net mct.safetensors",
    summary="CAMs of an MCTformer: class-token attention, fused with patch CAMs and refined by patch affinity.",
    description=f"{_READS} Writes cams shards with class_ids, cam (foreground classes only, each scaled to the "
                "range 0 to 1, one value per patch) and scores.",
    named_inputs=(NamedInput("net", "FILE", "MCTformer trained with train-cls mctformer or csd."),),
    option_groups=_OPTION_GROUPS)


def _run_gradcam(call: Call) -> Summary:
    from stages.cams.stage import run_gradcam
    return call.run(run_gradcam)


add_command(
    app, "gradcam", stage="cams gradcam", run=_run_gradcam, config=GradcamConfig, argument="INDEX|IMAGE...",
    example="wsss cams gradcam train.h5 --net timm:resnet50 --weights mine.pth --layer layer4 -o cams\n"
            "wsss cams gradcam photo.jpg --net cam.safetensors",
    summary="Grad-CAM of any classifier, at any layer.",
    description=f"{_READS} Writes cams shards with class_ids, cam (foreground classes only, each divided by its "
                "maximum) and scores.",
    named_inputs=(
        NamedInput("net", "FILE|NAME", "Classifier trained with train-cls, or the name of a timm or torchvision "
                   "network."),
        NamedInput("weights", "FILE", "Weights for a network given by name, with one output per class of the index "
                   "or, for image files, of ImageNet or --names.", required=False),
        NamedInput("names", "FILE", "Class names of a network given by name, one per line, for image files.  [default: "
                   "those of ImageNet]", required=False)),
    option_groups=_OPTION_GROUPS)
