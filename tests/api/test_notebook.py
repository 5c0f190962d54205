"""The notebook is a valid notebook without outputs, and its cells run in order."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import pytest

import wsss
from conftest import ROOT

NOTEBOOK = ROOT / "examples" / "python" / "tour.ipynb"


def read_cells() -> list[dict[str, Any]]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_has_the_format_4_and_no_outputs():
    """The rules of nbformat 4.5 that concern these cells."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert {"name", "display_name"} <= set(notebook["metadata"]["kernelspec"])
    cells, common = notebook["cells"], {"id", "cell_type", "metadata", "source"}
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        extra = {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        assert cell["cell_type"] in ("code", "markdown") and set(cell) == common | extra
        assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"]) and isinstance(cell["metadata"], dict)
        assert all(isinstance(line, str) for line in cell["source"])
        if extra:
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_nbformat_accepts_the_notebook():
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))


@pytest.mark.slow
def test_the_cells_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in read_cells():
        if cell["cell_type"] == "code":
            exec(compile(ast.parse("".join(cell["source"])), cell["id"], "exec"), namespace)
    shown = capsys.readouterr().out
    assert "Did you mean 'scales'?" in shown
    assert len(namespace["masks"].open()) == 16
    assert wsss.eval(tmp_path / "own-masks").value["miou"] > 0.4, "the tiny network has learnt the tags"
    assert namespace["batch"]["mask"].shape == (4, 72, 96)


def test_the_notebook_names_functions_that_exist():
    for name in set(re.findall(r"\bwsss\.([a-z_]+(?:\.[a-z_]+)?)\(", NOTEBOOK.read_text(encoding="utf-8"))):
        value: Any = wsss
        for part in name.split("."):
            value = getattr(value, part)
        assert callable(value)
