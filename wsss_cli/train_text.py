"""`wsss train-text tcl | code`."""

from __future__ import annotations

from functools import partial

from stages.flow.execution import Summary
from stages.train_text.config import CodeConfig, TclConfig
from wsss_cli.command import Call, add, group
from wsss_cli.options import CLIP, FILE, REPLACE, ROOT, TRAIN, Named

app = group("train-text", "Train a segmentation network on captions.")


def _run(method: str, call: Call) -> Summary:
    from stages.train_text.stage import run
    return run(method, call.config, call.inputs, call.output, stop=call.stop, report=call.report)


def _add(method: str, config: type, text: str, *more: Named, costs: str = "") -> None:
    add(app, method, stage=f"train-text {method}", run=partial(_run, method), config=config, inputs="INDEX...",
        example=f"wsss train-text {method} captions.h5 -o {method}.safetensors",
        text=f"{text} Reads captions and images of shards of kind index, and a CLIP. Writes a net (.safetensors), "
             "which holds the CLIP too. Every process keeps the ids of the index in memory, and 18 bytes an image "
             f"besides{costs}.",
        named=(*CLIP,
               *more),
        extra=(FILE, ROOT, REPLACE, TRAIN))


_add("tcl", TclConfig, "TCL: masks of whole captions, learnt on a frozen CLIP.")
_add("code", CodeConfig, "CoDe: regions and word segments of the nouns of captions, learnt on a frozen CLIP.",
     Named("nouns_file", "TABLE", "The nouns, for --nouns file: columns id and nouns, and caption where an image has "
           "several.", required=False),
     costs=", and their nouns are looked for at each start and resumption: 0.05 ms a caption by the rules, 0.4 ms by "
           "NLTK")
