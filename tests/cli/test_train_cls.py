"""`wsss train-cls` on mixed samples, as users run it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cli.runner import TRAINING, good, refused, run
from stages.nets.files import read_net
from stages.shards import Contents, Run, write_shard


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


def test_subcategories_of_its_own_features(tiny_index, tiny_net, tmp_path):
    good("features", tiny_index, "--net", tiny_net, "--device", "cpu", "-o", tmp_path / "features")
    good("cluster", "kmeans", tmp_path / "features", "--clusters", "2", "-o", tmp_path / "clusters.h5")
    net = tmp_path / "cam.safetensors"
    train = ("train-cls", "subcategory", tiny_index, *TRAINING, "--clusters", tmp_path / "clusters.h5", "-o", net)
    good(*train)
    tensors, described = read_net(net)
    assert described["architecture"]["n_subcategories"] == [2, 2]
    assert tensors["subcategories.weight"].shape[0] == 4
    assert set(described["provenance"][-1]["inputs"]) >= {"index", "clusters"}
    assert [one["stage"] for one in described["provenance"]] == ["index", "features", "cluster", "train-cls"]
    assert described["provenance"][2]["config"]["clusters"] == 2, "how they were made is in the net's history"
    maps = ("cams", "cnn", tiny_index, "--net", net, "--scales", "1", "--device", "cpu", "-o")
    good(*maps, tmp_path / "cams")
    good(*maps, tmp_path / "inner", "--maps", "subcategories")
    outer, inner = Run([tmp_path / "cams"], "cams").first, Run([tmp_path / "inner"], "cams").first
    assert outer.digest != inner.digest
    assert inner.provenance[-1]["config"]["maps"] == "subcategories"
    for name in outer.ids:
        one, other = outer.item(name).datasets, inner.item(name).datasets
        assert one["cam"].shape == other["cam"].shape
        np.testing.assert_array_equal(one["scores"], other["scores"])
    refused(run("cams", "cnn", tiny_index, "--net", tiny_net, "--maps", "subcategories", "-o", tmp_path / "x"), 65,
            "cam.safetensors: is a net without sub-categories", "train-cls subcategory")
    assert "up to date" in run(*train).err
    # Its weights, second head included, start another training; those of a plain classifier leave that head as it is.
    for weights, told in ((net, "loaded"), (tiny_net, "loaded")):
        assert told in run(*train[:-2], "--weights", weights, "-o", tmp_path / "again.safetensors", "-f").err
    good("train-cls", "cam", tiny_index, *TRAINING, "--weights", net, "-o", tmp_path / "plain.safetensors")
    done = run("train-cls", "subcategory", tiny_index, *TRAINING, "-o", tmp_path / "x.safetensors")
    assert (done.code, "--clusters" in done.err) == (2, True)
    refused(run("train-cls", "subcategory", tiny_index, *TRAINING, "--clusters", tiny_index, "-o",
                tmp_path / "x.safetensors"), 65, "index")


def test_clusters_of_another_set(tiny_index, tiny_net, tmp_path):
    good("features", tiny_index, "--net", tiny_net, "--device", "cpu", "-o", tmp_path / "features")
    shard = Run([tmp_path / "features"]).first
    few = Contents("features", shard.classes, ids=shard.ids[:4], provenance=shard.provenance,
                   index_digest=shard.index_digest, index_path=str(tiny_index),
                   root_datasets={name: shard.root(name)[:4] for name in ("features", "labels")})
    write_shard(tmp_path / "few.h5", few)
    good("cluster", "finch", tmp_path / "few.h5", "-o", tmp_path / "clusters.h5")
    train = ("train-cls", "subcategory", tiny_index, *TRAINING, "--clusters", tmp_path / "clusters.h5", "-o",
             tmp_path / "x.safetensors")
    refused(run(*train), 65, shard.ids[4], "not among the clusters")
    datasets = {"features": shard.root("features"), "labels": np.zeros_like(shard.root("labels"))}
    write_shard(tmp_path / "none.h5", replace(few, ids=shard.ids, root_datasets=datasets))
    good("cluster", "finch", tmp_path / "none.h5", "-f", "-o", tmp_path / "clusters.h5")
    refused(run(*train), 65, "clusters.h5: no class has a cluster")
