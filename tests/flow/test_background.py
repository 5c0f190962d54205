"""`--background` as it is written, and what the provenance keeps of it."""

from __future__ import annotations

import json

import pytest

from stages.errors import BadData, MissingInput, UsageError
from stages.flow.background import resolve_background
from stages.kernels.background import Background


def test_a_given_rule():
    background, recorded = resolve_background("power:4")
    assert background == Background("power", (4.0,))
    assert recorded == {"rule": "power:4", "chosen_on": "given"}


def test_the_value_that_eval_chose_and_on_what(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"background": {"rule": "constant", "value": 0.27, "chosen_on": "ground-truth",
                                               "index": "ab12"}}))
    background, recorded = resolve_background(f"from:{path}")
    assert background == Background("constant", (0.27,))
    assert recorded == {"rule": "constant:0.27", "chosen_on": "ground-truth", "index": "ab12"}


def test_the_same_values_however_they_are_given(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"background": {"rule": "constant", "value": 0.27}}))
    assert resolve_background(f"from:{path}")[0] == resolve_background("constant:0.27")[0]


@pytest.mark.parametrize("content", [
    "", "[]", "{}", '{"background": null}', '{"background": {"rule": "constant"}}',
    '{"background": {"rule": "constant", "value": "x"}}', '{"background": {"rule": "otsu", "value": 1}}',
    '{"background": {"rule": "constant", "value": 7}}'])
def test_a_file_without_a_choice(tmp_path, content):
    path = tmp_path / "eval.json"
    path.write_text(content)
    with pytest.raises(BadData, match=r"eval\.json.*wsss eval"):
        resolve_background(f"from:{path}")


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "eval.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadData, match="eval"):
        resolve_background(f"from:{path}")


def test_no_such_file(tmp_path):
    with pytest.raises(MissingInput, match=r"none\.json"):
        resolve_background(f"from:{tmp_path / 'none.json'}")


@pytest.mark.parametrize("text", ["constant", "constant:", "power:-1", "0.3", "from"])
def test_what_is_no_rule(text):
    with pytest.raises(UsageError, match=f"--background .*{text}"):
        resolve_background(text)
