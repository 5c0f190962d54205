"""`wsss setup nltk`."""

from __future__ import annotations

from stages.flow.execution import Summary
from stages.setup.config import NltkConfig
from wsss_cli.command import Call, add_command, create_group
from wsss_cli.options import ARCHIVE, OVERWRITE

app = create_group("setup", "Install data files that a method needs, without an internet connection.")


def _run_nltk(call: Call) -> Summary:
    from stages.setup.stage import run_nltk
    call.begin_work()
    return run_nltk(call.values["archive"], call.output, call.report)


add_command(
    app, "nltk", stage="setup nltk", run=_run_nltk, config=NltkConfig, argument="",
    example="wsss setup nltk --from averaged_perceptron_tagger_eng.zip",
    summary="Install NLTK's part-of-speech tagger, for train-text code --nouns nltk.",
    description="Reads an archive, as NLTK distributes it. Writes its files to a folder that NLTK searches, and prints "
                "that folder.",
    option_groups=(ARCHIVE, OVERWRITE))
