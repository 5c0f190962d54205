"""`wsss setup nltk`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.setup.config import NltkConfig
from wsss_cli.command import Call, add, group
from wsss_cli.options import ARCHIVE, REPLACE

app = group("setup", "Put data where they are found, without a network.")


def _nltk(call: Call) -> Summary:
    from stages.setup.stage import run_nltk
    return run_nltk(call.values["archive"], call.output, call.report)


add(app, "nltk", stage="setup nltk", run=_nltk, config=NltkConfig, inputs="", extra=(ARCHIVE, REPLACE),
    example="wsss setup nltk --from averaged_perceptron_tagger_eng.zip",
    text="NLTK's part-of-speech tagger, for train-text code --nouns nltk. Reads an archive, the zip of NLTK's data. "
         "Writes its data files below a folder in which NLTK looks, and prints that.")
