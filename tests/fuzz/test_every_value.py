"""Documents with a single changed value, as people and other programs write them, but rarely a fuzzer of bytes.

Each value of each document is removed, duplicated, and replaced by each of `OTHER_VALUES`; checksums are updated, so
that readers get past them. A reader must return, or reject the document with a message of one line.
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
from stages.nets import net_files
from stages.nets.net_files import hash_tensors, serialise_net
from stages.shards.journal import encode_frame
from stages.shards.request import hash_json

OTHER_VALUES = (None, True, 0, -1, 2**70, 1.5, math.inf, math.nan, "", " ", "\0", "\n", "\ud800", "..", "/etc/passwd",
                "a" * 300, [], [None], ["a", "a"], [[]], {}, {"a": 1})
Document = dict[str, Any] | list[Any]


def list_changed_documents(document: Document) -> Iterator[Document]:
    for path in list_paths(document):
        yield change_value(document, path, lambda parent, key: parent.pop(key))
        yield change_value(document, path, duplicate_value)
        for other in OTHER_VALUES:
            yield change_value(document, path, lambda parent, key, other=other: parent.__setitem__(key, other))


def list_paths(document: Document) -> Iterator[tuple[Any, ...]]:
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        yield (key,)
        if isinstance(value, (dict, list)):
            yield from ((key, *subpath) for subpath in list_paths(value))


def change_value(document: Document, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> Document:
    parent = document = copy.deepcopy(document)
    for key in path[:-1]:
        parent = parent[key]
    change(parent, path[-1])
    return document


def duplicate_value(parent: Any, key: Any) -> None:
    if isinstance(parent, dict):
        parent[key.upper()] = parent[key]
    else:
        parent.append(parent[key])


def encode_json(document: Any) -> bytes:
    return json.dumps(document).encode()


def encode_json_lines(document: Any) -> bytes:
    return b"\x02" + b"\n".join(encode_json(row) for row in document)


def encode_regions(document: Any) -> bytes:
    return b"\x02" + encode_json(document)


def encode_toml(document: Any) -> bytes:
    return "".join(f"{json.dumps(key)} = {format_toml_value(value)}\n" for key, value in document.items()).encode()


def format_toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {format_toml_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(format_toml_value, value)) + "]"
    return {"NaN": "nan", "Infinity": "inf"}.get(json.dumps(value), json.dumps(value))


def encode_tar(document: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in (("a.jpg", b"x"), ("a.json", encode_json(document))):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def encode_journal(document: Any) -> bytes:
    """Encode the first frame, and a frame for each item with arrays of zeros."""
    request, *items = document
    return encode_frame(encode_json(request)) + b"".join(encode_frame(encode_json(item) + b"\n" + bytes(22))
                                                         for item in items)


def encode_net(document: Any) -> bytes:
    return serialise_net({"weight": torch.zeros(1)}, document)


def encode_training_state(document: Any) -> bytes:
    tensors = {"net.weight": torch.zeros(1)}
    head = {**document, "sha256": hash_tensors(tensors)}
    return save(tensors, {"wsss-training": json.dumps({**head, "digest": hash_json(head)})})


ITEM = {"position": 0, "id": "a", "error": None, "datasets": {"mask": {"dtype": "|u1", "shape": [2, 3]}},
        "attrs": {"covers": {"dtype": "<i8", "shape": [2]}, "height": 2}}
NET = {"task": "classification", "architecture": {"backbone": "mobilenet_v2", "head": "gap", "stride": 16,
                                                  "n_outputs": 2, "dropout": 0.5}, "classes": ["background", "a", "b"],
       "mean": [0.5] * 3, "std": [0.5] * 3,
       "stride": 16, "provenance": [{"stage": "train-cls", "config": {"lr": 0.1}, "inputs": {}}]}
STATE = {"request": REQUEST, "step": 1, "plain": {"0.step": 3}, "scaler": {}, "history": [{"mAP": 0.5}]}
CLIP = {"model_cfg": {"embed_dim": 4, "quick_gelu": True, "text_cfg": {"layers": 1, "width": 4},
                      "vision_cfg": {"layers": 1, "width": 4, "patch_size": 16, "image_size": 32}},
        "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
COCO = {"images": [{"id": 1, "file_name": "a.jpg", "height": 8, "width": 10}, {"id": 2, "file_name": "d/b.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": [[1, 1, 8, 1, 4, 7]]},
                        {"image_id": 1, "category_id": 9, "segmentation": {"size": [8, 10], "counts": [9, 9, 62]}},
                        {"image_id": 2, "caption": "a cat"}],
        "categories": [{"id": 3, "name": "cat", "supercategory": "animal"}, {"id": 9, "name": "dog"}]}
RESULTS = [{"image_id": "a", "category_id": 1, "score": 0.9, "segmentation": {"size": [2, 3], "counts": [1, 2, 3]}},
           {"image_id": 7, "category_id": 2, "score": 0.5, "segmentation": [[0, 0, 2, 0, 2, 1.5]]},
           {"image_id": "a", "category_id": 2, "score": 1, "segmentation": {"size": [2, 3], "counts": "123"}}]
REGIONS = [{"segmentation": {"size": [2, 3], "counts": [1, 2, 3]}, "area": 2, "predicted_iou": 0.5},
           {"segmentation": [[True, False, False], [False, False, True]], "score": 0.3}]
TABLE = [{"id": "a", "tags": ["cat", "dog"], "caption": None}, {"id": 2, "tags": "dog", "captions": ["one", "two"]},
         {"path": "b.jpg", "tags": {"dog": 0.9}}]
CATEGORIES = {"labels": {"background": 0, "cat": 1}, "categories": [{"id": 1, "name": "cat"}], "names": ["cat", "dog"]}
EVALUATION = {"miou": 0.5, "background": {"rule": "constant", "value": 0.3, "chosen_on": "train", "index": "ab"}}
CASES: tuple[tuple[str, Document, Callable[[Any], bytes]], ...] = (
    ("table", TABLE, encode_json_lines), ("table", TABLE, lambda document: b"\x04" + encode_json(document)),
    ("table", {"a": ["cat"], "b": {"tags": "dog"}, "c": None}, lambda document: b"\x04" + encode_json(document)),
    ("class_names", CATEGORIES, lambda document: b"\x01" + encode_json(document)), ("coco", COCO, encode_json),
    ("webdataset", {"caption": "a cat", "key": [1]}, encode_tar),
    ("evaluation", EVALUATION, encode_json), ("clip_config", CLIP, encode_json), ("journal", [REQUEST, ITEM],
                                                                                  encode_journal),
    ("import_results", RESULTS, encode_json), ("import_regions", REGIONS, encode_regions),
    ("words", {"background": ["sky", "sea"], "classes": {"cat": ["cat", "kitten"], "dog": "dog"}}, encode_toml),
    ("recipe", {"train-cls": {"lr": 0.1, "cam": {"lr": 0.1, "epochs": 5}}}, encode_toml),
    ("net", NET, encode_net), ("training_state", STATE, encode_training_state))


@pytest.mark.parametrize(("reader", "document", "encode"), CASES, ids=[case[0] for case in CASES])
def test_changed_documents_are_read_or_rejected(reader, document, encode, tmp_path,
                                                monkeypatch):
    build = functools.cache(net_files.build_backbone)
    # Build the backbone once, with one stride: measuring a network of stride 1, which is valid, takes 5 s.
    monkeypatch.setattr(net_files, "build_backbone", lambda name, stride: build(name, stride=32))
    if reader != "net":  # its tensor fits no network, so the unchanged document is rejected, too
        TARGETS[reader](encode(document), tmp_path)
    for position, changed in enumerate(list_changed_documents(document)):
        (folder := tmp_path / str(position)).mkdir()
        data = encode(changed)
        try:
            TARGETS[reader](data, folder)
        except WsssError as error:
            assert "\n" not in str(error), changed
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error} of {changed}") from error
