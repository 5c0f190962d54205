"""`wsss segment net | tcl | code | maskclip | sclip | clearclip | naclip | proxyclip`."""

from __future__ import annotations

from functools import partial

from stages.flow.execution import Summary
from stages.segment.config import (
    ClearclipConfig,
    GroundedConfig,
    MaskclipConfig,
    NaclipConfig,
    NetConfig,
    ProxyclipConfig,
    SclipConfig,
)
from wsss_cli.command import Call, add, group
from wsss_cli.options import CLIP, MAP, OUTPUT, REFUSED, REPLACE, ROOT, Named

app = group("segment", "Segment images with a trained network, or with CLIP and words alone.")

_SCORES = Named("scores", "RUN", "Also write the scores, as a cams run with background.", required=False)
_WORDS = Named("words", "FILE|WORDS", 'The classes as phrases, "cat; dog; wet grass = grass, lawn", or a file of them '
               "(one a line, or FILE.toml).", required=False)
_TEXT = (*CLIP, _WORDS, _SCORES)
_EXTRA = (OUTPUT, ROOT, REPLACE, MAP, REFUSED)


def _net(call: Call) -> Summary:
    from stages.segment.stage import run_net
    return call.run(run_net)


def _grounded(method: str, call: Call) -> Summary:
    from stages.segment.stage import run_grounded
    return call.run(partial(run_grounded, method))


def _text(method: str, call: Call) -> Summary:
    from stages.segment.stage import run_text
    return call.run(partial(run_text, method))


add(app, "net", stage="segment net", run=_net, config=NetConfig, inputs="INDEX|IMAGE...",
    example="wsss segment net photo.jpg --net seg.safetensors -o out",
    text="Masks of a network of train-seg. Reads images of shards of kind index, or image files (then a picture "
         "OUT/<id>.png is written beside). Writes shards of kind masks, and with --scores its scores as shards of "
         "kind cams.",
    named=(Named("net", "FILE", "A net of train-seg."), _SCORES), extra=_EXTRA)

for _name, _line in (("tcl", "TCL: masks of a net that learnt from whole captions"),
                     ("code", "CoDe: masks of a net that learnt from the nouns of captions")):
    add(app, _name, stage=f"segment {_name}", run=partial(_grounded, _name), config=GroundedConfig,
        inputs="INDEX|IMAGE...",
        example=f'wsss segment {_name} photo.jpg --net {_name}.safetensors --words "cat; dog; grass" -o out',
        text=f"{_line}, for any words. The net holds its CLIP, so that no other file is needed. Reads images of shards "
             "of kind index, or image files (then a picture OUT/<id>.png is written beside). Writes shards of kind "
             "masks, and with --scores its scores as shards of kind cams. On an index the classes are its own, unless "
             "--words are given.",
        named=(Named("net", "FILE", f"A net of train-text {_name}."), _WORDS, _SCORES), extra=_EXTRA)

for _name, _config, _line, _more in (
        ("naclip", NaclipConfig, "NACLIP: patches attend to like keys nearby", ()),
        ("sclip", SclipConfig, "SCLIP: patches attend to like queries and like keys", ()),
        ("clearclip", ClearclipConfig, "ClearCLIP: patches attend to like queries, without the block's residual path",
         ()),
        ("maskclip", MaskclipConfig, "MaskCLIP: every patch sees itself alone", ()),
        ("proxyclip", ProxyclipConfig, "ProxyCLIP: patches attend to those that another network finds alike",
         (Named("proxy", "NAME", "The other network, such as timm:vit_base_patch8_224 or dinov2's."),
          Named("proxy_weights", "FILE|TAG", "Its weights: a file, a tag of its library (dino), or random.")))):
    _own = " --proxy timm:vit_base_patch8_224 --proxy-weights dino" if _more else ""
    add(app, _name, stage=f"segment {_name}", run=partial(_text, _name), config=_config, inputs="INDEX|IMAGE...",
        example=f'wsss segment {_name} photo.jpg{_own} --words "cat; dog; grass" -o out',
        text=f"{_line}. No net is trained: the last block of a frozen CLIP gets another attention, and its patches are "
             "compared with words, in windows. Reads images of shards of kind index, or image files (then a picture "
             "OUT/<id>.png is written beside). Writes shards of kind masks, and with --scores its scores as shards of "
             "kind cams. On an index the classes are its own, unless --words are given.",
        named=(*_TEXT, *_more), extra=_EXTRA)
