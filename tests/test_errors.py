"""How an error reads, alone and after it travelled between processes."""

from __future__ import annotations

import pickle

import pytest

from stages.errors import BadData, UsageError, WsssError


@pytest.mark.parametrize(("error", "text"), [
    (BadData("the mask has 4 classes but the index has 3", "Re-run `wsss cams` with --index", where="a.h5: item b"),
     "a.h5: item b: the mask has 4 classes but the index has 3. Re-run `wsss cams` with --index."),
    (BadData("the file is empty", where="a.h5"), "a.h5: the file is empty"),
    (UsageError("--epochs 0 is out of range", "Use a value from 1 to 100"),
     "--epochs 0 is out of range. Use a value from 1 to 100."),
    (UsageError("--epochs 0 is out of range"), "--epochs 0 is out of range"),
], ids=["all", "no remedy", "no place", "message alone"])
def test_joins_where_message_and_remedy_into_one_line(error, text):
    assert str(error) == text


@pytest.mark.parametrize(("remedy", "sentence"), [
    ("use --force", "Use --force."), ("Use --force.", "Use --force."), ("did you mean cat?", "Did you mean cat?"),
    ("--force replaces it", "--force replaces it."), ("`wsss check` finds it", "`wsss check` finds it."),
    ("wsss check finds it", "wsss check finds it."), ("'cat' is the nearest class", "'cat' is the nearest class."),
])
def test_turns_the_remedy_into_a_sentence(remedy, sentence):
    assert str(WsssError("the class is unknown", remedy)) == f"the class is unknown. {sentence}"


def test_adds_no_second_full_stop_after_a_message_that_ends_in_one():
    recorded = str(BadData("the image is damaged", "Replace it", where="a.jpg"))
    error = BadData(recorded, "Omit --strict", where="a")
    assert str(error) == "a: a.jpg: the image is damaged. Replace it. Omit --strict."


def test_puts_everything_on_one_line():
    assert str(WsssError("HDF5 said\n  no", "Copy it\nagain")) == "HDF5 said no. Copy it again."


def test_survives_the_way_from_a_worker_process():
    error = BadData("the image is damaged", "Replace it", where="a.jpg")
    restored = pickle.loads(pickle.dumps(error))
    assert type(restored) is BadData
    assert (restored.message, restored.remedy, restored.where) == ("the image is damaged", "Replace it", "a.jpg")
