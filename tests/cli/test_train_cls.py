"""`wsss train-cls` on mixed samples, as users run it."""

from __future__ import annotations

import pytest

from cli.runner import TRAINING, good, refused, run
from stages.nets.files import read_net


@pytest.mark.parametrize("method", [("mixup",), ("fmix",), ("fmix", "--fmix-spectrum", "released"),
                                    ("manifold-mixup",), ("mixup", "--lambda-con", "0", "--entropy", "sum")],
                         ids=" ".join)
def test_a_net_that_makes_maps_and_is_the_same_twice(tiny_index, tmp_path, method):
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    for path in (one, two):
        good("train-cls", method[0], tiny_index, *TRAINING, *method[1:], "-o", path)
    assert one.read_bytes() == two.read_bytes()
    _, described = read_net(one)
    assert described["provenance"][-1]["method"] == method[0]
    good("cams", "cnn", tiny_index, "--net", one, "--scales", "1", "--device", "cpu", "-o", tmp_path / "cams")


def test_an_unknown_stage(tiny_index, tmp_path):
    refused(run("train-cls", "manifold-mixup", tiny_index, *TRAINING, "--mix-at", "layer9", "-o",
                tmp_path / "x.safetensors"), 2, "layer9", "give some of input")
