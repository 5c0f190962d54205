"""Findings of the fuzzer stay fixed: every file of its corpus is read, or rejected with a message of one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.targets import TARGETS
from stages.errors import WsssError

CORPUS = Path(__file__).with_name("corpus")
FILES = sorted(CORPUS.glob("*/*"))


def test_every_reader_has_a_corpus():
    assert {path.parent.name for path in FILES} == set(TARGETS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_files_of_the_corpus_are_read_or_rejected(path, tmp_path):
    try:
        TARGETS[path.parent.name](path.read_bytes(), tmp_path)
    except WsssError as error:
        assert "\n" not in str(error)
        assert error.message
