"""`wsss train-text tcl | code`."""

from __future__ import annotations

from functools import partial

from stages.flow.execution import Summary
from stages.train_text.config import CodeConfig, TclConfig
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import CLIP, FILE, OVERWRITE, ROOT, TRAINING_OPTIONS, NamedInput

app = create_group("train-text", "Train a segmentation network on captions.")


def _run(method: str, call: Call) -> Summary:
    from stages.train_text.stage import run
    return call.run(partial(run, method))


def _add(method: str, config: type, summary: str, *named_inputs: NamedInput, costs: str = "") -> None:
    add_command(
        app, method, stage=f"train-text {method}", run=partial(_run, method), config=config, argument="INDEX...",
        example=f"wsss train-text {method} captions.h5 -o {method}.safetensors", summary=summary,
        description="The CLIP model stays frozen. Reads captions and images from index shards, and a CLIP model. "
                    "Writes a net (.safetensors) that includes the CLIP model. Memory per process: the ids of the "
                    f"index and 18 bytes per image.{costs}",
        named_inputs=(*CLIP, *named_inputs), option_groups=(FILE, ROOT, OVERWRITE, TRAINING_OPTIONS))


_add("tcl", TclConfig, "Train TCL: masks that match whole captions.")
_add("code", CodeConfig, "Train CoDe: image regions and word segments that match the nouns of captions.",
     NamedInput("nouns_file", "TABLE", "Nouns for --nouns file: columns id and nouns, and caption where an image has "
                "several captions.", required=False),
     costs=" Nouns are selected when the training starts or resumes: 0.05 ms per caption by rules, 0.4 ms with NLTK.")
