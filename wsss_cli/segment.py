"""`wsss segment net | tcl | code | maskclip | sclip | clearclip | naclip | proxyclip | corrclip | retrieve`."""

from __future__ import annotations

from functools import partial

from stages.flow.execution import Summary
from stages.segment.config import (
    ClearclipConfig,
    CorrclipConfig,
    GroundedConfig,
    MaskclipConfig,
    NaclipConfig,
    NetConfig,
    ProxyclipConfig,
    RetrieveConfig,
    SclipConfig,
)
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import (
    CLIP,
    EXECUTION_OPTIONS,
    FAILED_IMAGES,
    MAP_NETWORK,
    OUTPUT,
    OVERWRITE,
    REUSE,
    ROOT,
    NamedInput,
    build_image_output,
)

app = create_group("segment", "Segment images with a trained network, or with CLIP and a list of words.")

_SCORES = NamedInput("scores", "RUN", "Also write the scores as CAMs with background, to this run folder.",
                     required=False)
_WORDS = NamedInput("words", "FILE|WORDS", 'Classes to segment, such as "cat; dog; wet grass = grass, lawn", or a file '
                    "with one class per line, or FILE.toml.  [default: the classes of the index]", required=False)
_OPTION_GROUPS = (build_image_output("masks"), ROOT, OVERWRITE, EXECUTION_OPTIONS, FAILED_IMAGES, REUSE)
_READS_AND_WRITES = ("Reads images from index shards, or image files and folders of photographs, for each of which it "
                     "also draws OUT/<id>.png. Writes masks shards; with --scores also cams shards.")


def _run_net(call: Call) -> Summary:
    from stages.segment.stage import run_net
    return call.run(run_net)


def _run_retrieve(call: Call) -> Summary:
    from stages.segment.stage import run_retrieve
    return call.run(run_retrieve)


def _run_grounded(method: str, call: Call) -> Summary:
    from stages.segment.stage import run_grounded
    return call.run(partial(run_grounded, method))


def _run_text(method: str, call: Call) -> Summary:
    from stages.segment.stage import run_text
    return call.run(partial(run_text, method))


add_command(
    app, "net", stage="segment net", run=_run_net, config=NetConfig, argument="INDEX|IMAGE...",
    example="wsss segment net photo.jpg --net seg.safetensors -o out",
    summary="Segment images with a network trained with train-seg.", description=_READS_AND_WRITES,
    named_inputs=(NamedInput("net", "FILE", "Network trained with train-seg."), _SCORES), option_groups=_OPTION_GROUPS)

for _name, _summary in (
        ("tcl", "Segment any words with a network that learnt from whole captions (TCL)."),
        ("code", "Segment any words with a network that learnt from the nouns of captions (CoDe).")):
    add_command(
        app, _name, stage=f"segment {_name}", run=partial(_run_grounded, _name), config=GroundedConfig,
        argument="INDEX|IMAGE...",
        example=f'wsss segment {_name} photo.jpg --net {_name}.safetensors --words "cat; dog; grass" -o out',
        summary=_summary, description=f"The network file includes its CLIP model. {_READS_AND_WRITES}",
        named_inputs=(NamedInput("net", "FILE", f"Network trained with train-text {_name}."), _WORDS, _SCORES),
        option_groups=_OPTION_GROUPS)

_PROXY = (NamedInput("proxy", "NAME", "Network whose features say which patches are similar, such as "
                     "timm:vit_base_patch8_224 or a DINOv2."),
          NamedInput("proxy_weights", "FILE|TAG", "Weights of the proxy network: a file, a tag of its library (dino), "
                     "or `random`."))
for _name, _config, _rule, _more in (
        ("naclip", NaclipConfig, "patches attend to nearby patches with similar keys (NACLIP)", ()),
        ("sclip", SclipConfig, "patches attend to patches with similar queries and similar keys (SCLIP)", ()),
        ("clearclip", ClearclipConfig, "patches attend to similar queries, without the residual path (ClearCLIP)", ()),
        ("maskclip", MaskclipConfig, "every patch attends to itself alone (MaskCLIP)", ()),
        ("proxyclip", ProxyclipConfig, "patches attend to those that another network finds similar (ProxyCLIP)",
         _PROXY)):
    _proxy_words = " --proxy timm:vit_base_patch8_224 --proxy-weights dino" if _more else ""
    add_command(
        app, _name, stage=f"segment {_name}", run=partial(_run_text, _name), config=_config,
        argument="INDEX|IMAGE...",
        example=f'wsss segment {_name} photo.jpg{_proxy_words} --words "cat; dog; grass" -o out',
        summary=f"Segment any words with a frozen CLIP model: {_rule}.",
        description="No training. The attention of CLIP's last block is replaced, and the resulting patch features are "
                    f"compared with the words, in sliding windows. {_READS_AND_WRITES}",
        named_inputs=(*CLIP, _WORDS, _SCORES, *_more), option_groups=_OPTION_GROUPS)

add_command(
    app, "corrclip", stage="segment corrclip", run=partial(_run_text, "corrclip"), config=CorrclipConfig,
    argument="INDEX|IMAGE...",
    example='wsss segment corrclip val.h5 --regions regions --proxy timm:vit_base_patch8_224 --proxy-weights dino '
            '--words "cat; dog; grass" -o out',
    summary="Segment any words with a frozen CLIP model: patches attend within regions (CorrCLIP).",
    description="No training. Patches attend to those of their region, as similar as another network finds them, and "
                "each region has a class token; then each region gets the class that most of its pixels have. Without "
                "--regions, patches attend to those that are more similar than the average pair. "
                f"{_READS_AND_WRITES.partition('; with')[0]}.",
    named_inputs=(*CLIP, _WORDS, *_PROXY,
                  NamedInput("regions", "RUN", "Regions of the images, from `wsss regions` or `wsss import regions`.",
                             required=False)),
    option_groups=_OPTION_GROUPS)

add_command(
    app, "retrieve", stage="segment retrieve", run=_run_retrieve, config=RetrieveConfig, argument="INDEX...",
    example="wsss segment retrieve val.h5 --regions regions --bank bank --net timm:vit_base_patch14_dinov2 "
            "--weights dinov2.pth -o masks",
    summary="Give each region the class of the most similar regions of training masks, without training (ModuSeg).",
    description="Reads images from index shards, their regions, and a bank that `wsss bank` made of training masks "
                "with the same network. Writes masks shards with mask, and confidence (the mean cosine).",
    named_inputs=(NamedInput("regions", "RUN", "Regions of the images, from `wsss regions` or `wsss import regions`."),
                  NamedInput("bank", "RUN", "Features of the classes of training masks, from `wsss bank`."),
                  *MAP_NETWORK),
    option_groups=(OUTPUT, ROOT, OVERWRITE, EXECUTION_OPTIONS, FAILED_IMAGES, REUSE))
