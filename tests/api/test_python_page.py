"""The Python page: its code runs in order on a small data set, and prints what stands below it."""

from __future__ import annotations

import shutil

import pytest

from cli.runner import TRAINING, run_ok
from conftest import ROOT
from markdown_blocks import blocks
from tiny_datasets import create_dataset

# Needs the weights of CLIP; tests/api/test_nets.py tests the function.
NEEDS_WEIGHTS = "wsss.clip_es("


@pytest.mark.slow
def test_the_code_prints_what_the_page_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = create_dataset("set", n=6)
    (tmp_path / "photos").mkdir()
    rows = ["id,tags"]
    for number, (item_id, class_ids) in enumerate(zip(data.ids, data.labels, strict=True)):
        shutil.copy(f"set/JPEGImages/{item_id}.jpg", f"photos/IMG_{number:04d}.jpg")
        rows.append(f"IMG_{number:04d},{';'.join(data.classes[class_id] for class_id in class_ids)}")
    (tmp_path / "tags.csv").write_text("\n".join(rows))
    run_ok("index", "table", "tags.csv", "--images", "photos", "-o", "photos.h5", "-q")
    run_ok("train-cls", "cam", "photos.h5", *TRAINING, "-o", "cam.safetensors", "-q")
    namespace: dict[str, object] = {}
    compared, printed = 0, ""
    for block in blocks((ROOT / "docs" / "python.md").read_text(encoding="utf-8")):
        if block.language == "python" and NEEDS_WEIGHTS not in block.text:
            exec(compile(block.text, f"python.md: {block.text[:60]}", "exec"), namespace)
            printed = capsys.readouterr().out
        elif block.language == "text":
            assert printed == block.text
            compared += 1
    assert compared >= 6
