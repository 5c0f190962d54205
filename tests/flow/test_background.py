"""Parsing of `--background`, and its description in the provenance."""

from __future__ import annotations

import json

import pytest

from stages.errors import BadData, MissingInput, UsageError
from stages.flow.background import resolve_background
from stages.kernels.background import Background


def test_parses_a_rule():
    background, recorded = resolve_background("power:4")
    assert background == Background("power", (4.0,))
    assert recorded == {"rule": "power:4", "chosen_on": "given"}


def test_reads_the_value_that_eval_chose(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"background": {"rule": "constant", "value": 0.27, "chosen_on": "ground-truth",
                                               "index": "ab12"}}))
    background, recorded = resolve_background(f"from:{path}")
    assert background == Background("constant", (0.27,))
    assert recorded == {"rule": "constant:0.27", "chosen_on": "ground-truth", "index": "ab12"}


def test_a_rule_from_a_file_equals_the_rule_on_the_command_line(tmp_path):
    path = tmp_path / "eval.json"
    path.write_text(json.dumps({"background": {"rule": "constant", "value": 0.27}}))
    assert resolve_background(f"from:{path}")[0] == resolve_background("constant:0.27")[0]


@pytest.mark.parametrize("content", [
    "", "[]", "{}", '{"background": null}', '{"background": {"rule": "constant"}}',
    '{"background": {"rule": "constant", "value": "x"}}', '{"background": {"rule": "otsu", "value": 1}}',
    '{"background": {"rule": "constant", "value": 7}}'])
def test_rejects_a_file_without_a_chosen_background(tmp_path, content):
    path = tmp_path / "eval.json"
    path.write_text(content)
    with pytest.raises(BadData, match=r"eval\.json.*wsss eval"):
        resolve_background(f"from:{path}")


def test_rejects_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "eval.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadData, match="eval"):
        resolve_background(f"from:{path}")


def test_rejects_a_missing_file(tmp_path):
    with pytest.raises(MissingInput, match=r"none\.json"):
        resolve_background(f"from:{tmp_path / 'none.json'}")


@pytest.mark.parametrize("text", ["constant", "constant:", "power:-1", "0.3", "from"])
def test_rejects_invalid_rules(text):
    with pytest.raises(UsageError, match=f"--background .*{text}"):
        resolve_background(text)
