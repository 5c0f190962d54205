"""Documents in which one value is another: a fuzzer of bytes rarely makes these, people and other programs do.

Each value of each document is left out in turn, is there twice, and is replaced by each of `OTHERS`; checksums are
made anew, so that what stands behind them is reached. A reader returns, or refuses in one line.
"""

from __future__ import annotations

import copy
import functools
import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import save

from fuzz.targets import REQUEST, TARGETS
from stages.errors import WsssError
from stages.nets import files
from stages.nets.files import net_bytes, tensors_sha256
from stages.shards.journal import frame
from stages.shards.request import sha256_of

OTHERS = (None, True, 0, -1, 2**70, 1.5, math.inf, math.nan, "", " ", "\0", "\n", "\ud800", "..", "/etc/passwd",
          "a" * 300, [], [None], ["a", "a"], [[]], {}, {"a": 1})
Document = dict[str, Any] | list[Any]


def _changed(document: Document) -> Iterator[Document]:
    for place in _places(document):
        yield _with(document, place, lambda parent, key: parent.pop(key))
        yield _with(document, place, _twice)
        for other in OTHERS:
            yield _with(document, place, lambda parent, key, other=other: parent.__setitem__(key, other))


def _places(document: Document) -> Iterator[tuple[Any, ...]]:
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield (key,)
        if isinstance(value, (dict, list)):
            yield from ((key, *below) for below in _places(value))


def _with(document: Document, place: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Document:
    parent = document = copy.deepcopy(document)
    for key in place[:-1]:
        parent = parent[key]
    change(parent, place[-1])
    return document


def _twice(parent: Any, key: Any) -> None:
    if isinstance(parent, dict):
        parent[key.upper()] = parent[key]
    else:
        parent.append(parent[key])


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()


def _json_lines(document: Any) -> bytes:
    return b"\x02" + b"\n".join(_json(row) for row in document)


def _toml(document: Any) -> bytes:
    return "".join(f"{json.dumps(key)} = {_toml_value(value)}\n" for key, value in document.items()).encode()


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    return {"NaN": "nan", "Infinity": "inf"}.get(json.dumps(value), json.dumps(value))


def _tar(document: Any) -> bytes:
    kept = io.BytesIO()
    with tarfile.open(fileobj=kept, mode="w") as archive:
        for name, content in (("a.jpg", b"x"), ("a.json", _json(document))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return kept.getvalue()


def _journal(document: Any) -> bytes:
    """The first frame, and one of an item whose arrays are `document`'s bytes."""
    request, *items = document
    return frame(_json(request)) + b"".join(frame(_json(item) + b"\n" + bytes(22)) for item in items)


def _net(document: Any) -> bytes:
    return net_bytes({"weight": torch.zeros(1)}, document)


def _training_state(document: Any) -> bytes:
    tensors = {"net.weight": torch.zeros(1)}
    head = {**document, "sha256": tensors_sha256(tensors)}
    return save(tensors, {"wsss-training": json.dumps({**head, "digest": sha256_of(head)})})


ITEM = {"position": 0, "id": "a", "error": None, "datasets": {"mask": {"dtype": "|u1", "shape": [2, 3]}},
        "attrs": {"covers": {"dtype": "<i8", "shape": [2]}, "height": 2}}
NET = {"task": "classification", "architecture": {"backbone": "mobilenet_v2", "head": "gap", "stride": 16,
       "n_outputs": 2, "dropout": 0.5}, "classes": ["background", "a", "b"], "mean": [0.5] * 3, "std": [0.5] * 3,
       "stride": 16, "provenance": [{"stage": "train-cls", "config": {"lr": 0.1}, "inputs": {}}]}
STATE = {"request": REQUEST, "step": 1, "plain": {"0.step": 3}, "scaler": {}, "history": [{"mAP": 0.5}]}
CLIP = {"model_cfg": {"embed_dim": 4, "quick_gelu": True, "text_cfg": {"layers": 1, "width": 4},
                      "vision_cfg": {"layers": 1, "width": 4, "patch_size": 16, "image_size": 32}},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
COCO = {"images": [{"id": 1, "file_name": "a.jpg", "height": 3, "width": 4}, {"id": 2, "file_name": "d/b.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 3}, {"image_id": 2, "caption": "a cat"}],
        "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 9, "name": "dog"}]}
TABLE = [{"id": "a", "tags": ["cat", "dog"], "caption": None}, {"id": 2, "tags": "dog", "captions": ["one", "two"]},
         {"path": "b.jpg", "labels": "dog"}]
EVALUATION = {"miou": 0.5, "background": {"rule": "constant", "value": 0.3, "chosen_on": "train", "index": "ab"}}
CASES: tuple[tuple[str, Document, Callable[[Any], bytes]], ...] = (
    ("table", TABLE, _json_lines), ("coco", COCO, _json), ("webdataset", {"caption": "a cat", "key": [1]}, _tar),
    ("evaluation", EVALUATION, _json), ("clip_config", CLIP, _json), ("journal", [REQUEST, ITEM], _journal),
    ("words", {"background": ["sky", "sea"], "classes": {"cat": ["cat", "kitten"], "dog": "dog"}}, _toml),
    ("recipe", {"train-cls": {"lr": 0.1, "cam": {"lr": 0.1, "epochs": 5}}}, _toml),
    ("net", NET, _net), ("training_state", STATE, _training_state))


@pytest.mark.parametrize(("reader", "document", "written"), CASES, ids=[case[0] for case in CASES])
def test_a_document_with_another_value_is_read_or_refused_in_one_line(reader, document, written, tmp_path,
                                                                               monkeypatch):
    build = functools.cache(files.build_backbone)
    # Built once, and of one stride: a network of stride 1, which is a good one, takes 5 s to be measured.
    monkeypatch.setattr(files, "build_backbone", lambda name, stride: build(name, stride=32))
    if reader != "net":  # whose one tensor fits no network: it is built in each case, and then refused
        TARGETS[reader](written(document), tmp_path)
    for position, other in enumerate(_changed(document)):
        (folder := tmp_path / str(position)).mkdir()
        data = written(other)
        try:
            TARGETS[reader](data, folder)
        except WsssError as error:
            assert "\n" not in str(error), other
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} of {other}") from error
