"""What the fuzzer found stays mended: every file of its corpus is read, or refused in one line."""

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
def test_a_file_of_the_corpus_is_read_or_refused_in_one_line(path, tmp_path):
    try:
        TARGETS[path.parent.name](path.read_bytes(), tmp_path)
    except WsssError as error:
        assert "\n" not in str(error)
        assert error.what
