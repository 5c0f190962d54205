"""`wsss train-cls` from the command line: mixed samples and sub-categories."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cli.runner import TRAINING, check_error, run, run_ok
from stages.nets.net_files import read_net
from stages.shards import Run, ShardContents, write_shard


@pytest.mark.parametrize("method", [("mixup",), ("fmix",), ("fmix", "--fmix-spectrum", "released"),
                                    ("manifold-mixup",), ("mixup", "--lambda-con", "0", "--entropy", "sum")],
                         ids=" ".join)
def test_network_is_reproducible_and_makes_cams(tiny_index, tmp_path, method):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    for path in (first, second):
        run_ok("train-cls", method[0], tiny_index, *TRAINING, *method[1:], "-o", path)
    assert first.read_bytes() == second.read_bytes()
    _, description = read_net(first)
    assert description["provenance"][-1]["method"] == method[0]
    run_ok("cams", "cnn", tiny_index, "--net", first, "--scales", "1", "--device", "cpu", "-o", tmp_path / "cams")


def test_unknown_block_of_mix_at(tiny_index, tmp_path):
    check_error(run("train-cls", "manifold-mixup", tiny_index, *TRAINING, "--mix-at", "layer9", "-o",
                tmp_path / "x.safetensors"), 2, "layer9", "Choose from input")


def test_subcategories_from_clusters_of_own_features(tiny_index, tiny_net, tmp_path):
    run_ok("features", tiny_index, "--net", tiny_net, "--device", "cpu", "-o", tmp_path / "features")
    run_ok("cluster", "kmeans", tmp_path / "features", "--clusters", "2", "-o", tmp_path / "clusters.h5")
    net = tmp_path / "cam.safetensors"
    train = ("train-cls", "subcategory", tiny_index, *TRAINING, "--clusters", tmp_path / "clusters.h5", "-o", net)
    run_ok(*train)
    tensors, description = read_net(net)
    assert description["architecture"]["n_subcategories"] == [2, 2]
    assert tensors["subcategories.weight"].shape[0] == 4
    assert set(description["provenance"][-1]["inputs"]) >= {"index", "clusters"}
    assert [entry["stage"] for entry in description["provenance"]] == ["index", "features", "cluster", "train-cls"]
    assert description["provenance"][2]["config"]["clusters"] == 2, "provenance has the settings of `cluster`"
    maps = ("cams", "cnn", tiny_index, "--net", net, "--scales", "1", "--device", "cpu", "-o")
    run_ok(*maps, tmp_path / "cams")
    run_ok(*maps, tmp_path / "inner", "--maps", "subcategories")
    outer, inner = Run([tmp_path / "cams"], "cams").first, Run([tmp_path / "inner"], "cams").first
    assert outer.digest != inner.digest
    assert inner.provenance[-1]["config"]["maps"] == "subcategories"
    for name in outer.ids:
        outer_datasets, inner_datasets = outer.item(name).datasets, inner.item(name).datasets
        assert outer_datasets["cam"].shape == inner_datasets["cam"].shape
        np.testing.assert_array_equal(outer_datasets["scores"], inner_datasets["scores"])
    check_error(run("cams", "cnn", tiny_index, "--net", tiny_net, "--maps", "subcategories", "-o", tmp_path / "x"), 65,
            "cam.safetensors: the network has no sub-categories", "train-cls subcategory")
    assert "up to date" in run(*train).err
    # Its weights, second head included, can initialise another training; those of a plain classifier have no such head.
    for weights in (net, tiny_net):
        assert "loaded" in run(*train[:-2], "--weights", weights, "-o", tmp_path / "again.safetensors", "-f").err
    run_ok("train-cls", "cam", tiny_index, *TRAINING, "--weights", net, "-o", tmp_path / "plain.safetensors")
    done = run("train-cls", "subcategory", tiny_index, *TRAINING, "-o", tmp_path / "x.safetensors")
    assert (done.code, "--clusters" in done.err) == (2, True)
    check_error(run("train-cls", "subcategory", tiny_index, *TRAINING, "--clusters", tiny_index, "-o",
                tmp_path / "x.safetensors"), 65, "index")


def test_clusters_of_other_images_or_without_classes(tiny_index, tiny_net, tmp_path):
    run_ok("features", tiny_index, "--net", tiny_net, "--device", "cpu", "-o", tmp_path / "features")
    shard = Run([tmp_path / "features"]).first
    contents = ShardContents("features", shard.classes, ids=shard.ids[:4], provenance=shard.provenance,
                   index_digest=shard.index_digest, index_path=str(tiny_index),
                   root_datasets={name: shard.read_root(name)[:4] for name in ("features", "labels")})
    write_shard(tmp_path / "few.h5", contents)
    run_ok("cluster", "finch", tmp_path / "few.h5", "-o", tmp_path / "clusters.h5")
    train = ("train-cls", "subcategory", tiny_index, *TRAINING, "--clusters", tmp_path / "clusters.h5", "-o",
             tmp_path / "x.safetensors")
    check_error(run(*train), 65, f"clusters.h5: the clusters do not contain {shard.ids[4]} of ")
    datasets = {"features": shard.read_root("features"), "labels": np.zeros_like(shard.read_root("labels"))}
    write_shard(tmp_path / "none.h5", replace(contents, ids=shard.ids, root_datasets=datasets))
    run_ok("cluster", "finch", tmp_path / "none.h5", "-f", "-o", tmp_path / "clusters.h5")
    check_error(run(*train), 65, "clusters.h5: no class has a cluster")
