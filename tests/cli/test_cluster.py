"""`wsss features` and `wsss cluster`."""

from __future__ import annotations

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.runner import check_error, run, run_ok
from stages.cluster import finch, kmeans
from stages.cluster.config import FinchConfig, KmeansConfig
from stages.nets.net_files import load_net
from stages.shards import Run, Shard, ShardContents, write_shard

CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def features(tiny_index, tiny_net, tmp_path_factory):
    """Return the features of the tiny data set."""
    path = tmp_path_factory.mktemp("features") / "out"
    run_ok("features", tiny_index, "--net", tiny_net, "-o", path, *CPU)
    return path


def test_features_are_the_mean_of_the_last_map(tiny_index, tiny_net, tiny_dataset, features):
    shard = Run([features], "features").first
    net, description = load_net(tiny_net)
    rows, labels = shard.read_root("features"), shard.read_root("labels")
    assert rows.shape == (12, net.backbone.channels)
    assert labels.shape == (12, 3)
    assert labels[:, 0].sum() == 0
    with Image.open(tiny_dataset.root / "JPEGImages" / f"{shard.ids[3]}.jpg") as opened:
        side = description["stride"]
        size = tuple(-(-length // side) * side for length in opened.size)
        image = np.asarray(opened.convert("RGB").resize(size, Image.Resampling.BICUBIC)) / 255
    view = (image - description["mean"]) / description["std"]
    with torch.inference_mode():
        maps = net.eval().backbone(torch.from_numpy(view.astype(np.float32)).permute(2, 0, 1)[None])
    np.testing.assert_allclose(rows[3], maps.mean((2, 3))[0], rtol=1e-3, atol=1e-4)


def test_writes_features_next_to_an_image_file(tiny_index, tiny_net, tiny_dataset, features, tmp_path):
    name = tiny_dataset.ids[3]
    with Image.open(tiny_dataset.root / "JPEGImages" / f"{name}.jpg") as opened:
        opened.save(tmp_path / "photo.png")
    run_ok("features", tmp_path / "photo.png", "--net", tiny_net, "-o", tmp_path, *CPU)
    row = Run([features], "features").first
    np.testing.assert_allclose(Run([tmp_path], "features").first.read_root("features")[0],
                               row.read_root("features")[row.ids.index(name)], rtol=1e-3, atol=1e-4)


def test_index_without_images_gives_an_empty_shard(tiny_index, tiny_net, tmp_path):
    whole = Shard(tiny_index)
    write_shard(tmp_path / "none.h5", ShardContents("index", whole.classes, provenance=whole.provenance,
                                                    root_attrs={"root": "."}))
    [path] = run_ok("features", tmp_path / "none.h5", "--net", tiny_net, "-o", tmp_path / "out", *CPU)
    assert Shard(path).read_root("features").shape == (0, 0)
    assert run_ok("check", tmp_path / "out") == [f"{path}\tgood"]


def test_features_of_a_layer_of_squares_and_of_a_timm_network(tiny_index, tiny_net, features, tmp_path):
    import timm

    run_ok("features", tiny_index, "--net", tiny_net, "--size", "32", "--batch-size", "5", "-o", tmp_path / "a", *CPU)
    assert not np.allclose(Shard(next((tmp_path / "a").glob("*.h5"))).read_root("features"),
                           Run([features]).first.read_root("features"))
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    named = ("--net", "timm:vit_tiny_patch16_224", "--weights", tmp_path / "vit.pth", *CPU)
    run_ok("features", tiny_index, *named, "-o", tmp_path / "vit")
    assert Run([tmp_path / "vit"]).first.read_root("features").shape == (12, 192)
    run_ok("features", tiny_index, *named, "--layer", "blocks.3", "-o", tmp_path / "block")
    assert Run([tmp_path / "block"]).first.read_root("features").shape == (12, 192)
    check_error(run("features", tiny_index, *named, "--layer", "blocks.99", "-o", tmp_path / "x"), 2, "blocks.99")
    check_error(run("features", tiny_index, "--net", "timm:vit_tiny_patch16_224", "-o", tmp_path / "x"), 2, "--weights")


def test_rejects_a_layer_that_is_not_used(tiny_index, tmp_path):
    net = tmp_path / "net.safetensors"
    run_ok("train-cls", "cam", tiny_index, "--net", "timm:convnext_atto", "--crop-size", "32", "--epochs", "1", *CPU,
           "--batch-size", "4", "--threads", "1", "-o", net)
    check_error(run("features", tiny_index, "--net", net, "--layer", "model.head", "-o", tmp_path / "x", *CPU), 2,
                "does not reach this layer")
    run_ok("features", tiny_index, "--net", net, "--layer", "model.stages.2", "-o", tmp_path / "y", *CPU)


def test_features_of_image_files(tiny_dataset, tiny_net, features, tmp_path):
    photos = sorted((tiny_dataset.root / "JPEGImages").iterdir())[:3]
    command = ("features", *photos, "--net", tiny_net, *CPU)
    assert "Would compute features of 3 image files." in run(*command, "-n", "-o", tmp_path / "out").err
    assert not (tmp_path / "out").exists()
    assert run_ok(*command, "-o", tmp_path / "out") == [str(tmp_path / "out" / "features-00000-of-00001.h5")]
    shard = Run([tmp_path / "out"], "features").first
    assert shard.ids == tuple(photo.stem for photo in photos)
    assert (shard.classes, shard.read_root("labels").tolist()) == (("background",), [[0]] * 3)
    whole = Run([features]).first
    np.testing.assert_allclose(shard.read_root("features"),
                               whole.read_root("features")[[whole.ids.index(item_id) for item_id in shard.ids]],
                               atol=1e-5)
    assert "up to date" in run(*command, "-o", tmp_path / "out").err
    check_error(run(*command, "-o", tmp_path / "out.h5"), 2, "is a file", "Give a folder")


def test_size_must_fit_patches_of_14_pixels(tiny_dataset, tmp_path):
    import timm

    torch.save(timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict(), tmp_path / "vit.pth")
    photo = next((tiny_dataset.root / "JPEGImages").iterdir())
    command = ("features", photo, "--net", "timm:vit_small_patch14_dinov2", "--weights", tmp_path / "vit.pth", *CPU)
    run_ok(*command, "-o", tmp_path / "out")
    assert Run([tmp_path / "out"], "features").first.read_root("features").shape == (1, 384)
    check_error(run(*command, "--size", "50", "-o", tmp_path / "x"), 2, "accepts no images of 50 x 50 pixels",
                "--size 518")


def test_failed_images_have_zero_features_until_retried(tiny_dataset, tiny_net, tmp_path):
    root = shutil.copytree(tiny_dataset.root, tmp_path / "set")
    run_ok("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "--class-names",
           root / "classes.txt", "-o", tmp_path / "index.h5")
    image_path = root / "JPEGImages" / f"{tiny_dataset.ids[2]}.jpg"
    contents = image_path.read_bytes()
    image_path.write_bytes(b"nothing")
    command = ("features", tmp_path / "index.h5", "--net", tiny_net, "-o", tmp_path / "out", *CPU)
    assert run(*command).code == 65
    before = Run([tmp_path / "out"]).first.read_root("features")
    assert not before[2].any()
    assert before[3].any()
    image_path.write_bytes(contents)
    run_ok(*command, "--retry")
    shard = Run([tmp_path / "out"]).first
    assert shard.read_root("features")[2].any()
    assert not shard.errors
    np.testing.assert_array_equal(np.delete(shard.read_root("features"), 2, 0), np.delete(before, 2, 0))


@pytest.mark.parametrize("method", [("finch",), ("finch", "--clusters", "2"), ("finch", "--partition", "0"),
                                    ("finch", "--metric", "euclidean", "--purity-filter"), ("kmeans",),
                                    ("kmeans", "--clusters", "2", "--metric", "cosine")], ids=" ".join)
def test_cluster_methods(features, tmp_path, method):
    out = tmp_path / "clusters.h5"
    assert run_ok("cluster", *method[:1], features, *method[1:], "-o", out) == [str(out)]
    shard, source = Shard(out, "clusters"), Run([features]).first
    assignment, counts = shard.read_root("assignment"), shard.read_root("n_clusters")
    labels = source.read_root("labels")
    np.testing.assert_array_equal(assignment >= 0, labels == 1)
    for class_id in (1, 2):
        clusters = assignment[labels[:, class_id] == 1, class_id]
        assert sorted(set(clusters.tolist())) == list(range(counts[class_id]))
    if "--clusters" in method:
        assert counts.tolist() == [0, 2, 2]
    if method[0] == "finch":
        partitions = shard.read_root("partitions")
        assert partitions.shape[1:] == assignment.shape
        assert shard.read_root("n_partitions")[0] == 0
    table = json.loads("\n".join(run_ok("info", out, "--json")))[0]["clusters"]
    assert list(table) == ["cat", "dog"]
    for class_id, row in enumerate(table.values(), 1):
        assert (row["images"], row["clusters"]) == (labels[:, class_id].sum(), counts[class_id])
        num_clusters = partitions[:, :, class_id].max(1) + 1 if method[0] == "finch" else None
        expected = None if num_clusters is None else num_clusters[:len(row["partitions"])].tolist()
        assert row.get("partitions") == expected
    line = f"cat: {table['cat']['images']} images in {table['cat']['clusters']} clusters"
    assert line in run("cluster", *method[:1], features, *method[1:], "-o", out).err, "also when up to date"
    prefix = f"{out}\tclusters of cat\timages={table['cat']['images']}, clusters={table['cat']['clusters']}"
    assert any(line.startswith(prefix) for line in run_ok("info", out))
    bytes_before = out.read_bytes()
    assert "is up to date" not in run("cluster", *method[:1], features, *method[1:], "-o", out, "-f").err
    assert out.read_bytes() == bytes_before


def test_contact_sheet(features, tmp_path):
    run_ok("cluster", "finch", features, "-o", tmp_path / "c.h5", "--sheet", tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size[0] > 200


def write_features(tmp_path, points: np.ndarray, labels: np.ndarray, index):
    """Write a features shard with these features and labels."""
    source = Shard(index)
    ids = [f"i{position}" for position in range(len(points))]
    write_shard(tmp_path / "made.h5", ShardContents(
        "features", ("background", *(f"c{position}" for position in range(1, labels.shape[1]))), ids=ids,
        provenance=[{"stage": "features"}], index_digest=source.digest, index_path=str(index),
        root_datasets={"features": points.astype("<f4"), "labels": labels.astype("u1")}))
    return tmp_path / "made.h5"


@pytest.mark.parametrize("method", ["finch", "kmeans"])
def test_classes_without_images_with_one_and_with_equal_ones(tiny_index, tmp_path, method):
    points = np.concatenate([np.random.default_rng(0).standard_normal((6, 4)), np.ones((4, 4))])
    labels = np.zeros((10, 5), dtype=int)
    labels[0, 2], labels[:6, 3], labels[6:, 4] = 1, 1, 1
    path = write_features(tmp_path, points, labels, tiny_index)
    done = run("cluster", method, path, "-o", tmp_path / "c.h5")
    assert done.code == 0, done.err
    assert "c1: 0 images in 0 clusters." in done.err
    counts = Shard(tmp_path / "c.h5").read_root("n_clusters")
    assert counts[[0, 1, 2, 4]].tolist() == [0, 0, 1, 1]
    assert counts[3] >= 1


@pytest.mark.parametrize(("compute_clusters", "config", "max_copies"), [
    (finch.compute_clusters, FinchConfig(), 3), (finch.compute_clusters, FinchConfig(metric="euclidean"), 3),
    (kmeans.compute_clusters, KmeansConfig(restarts=1, iterations=2), 6),
    (kmeans.compute_clusters, KmeansConfig(restarts=1, iterations=2, metric="cosine"), 6)])
def test_memory_is_bounded_by_the_features(compute_clusters, config, max_copies):
    """The bound does not include the features of the class themselves."""
    points = np.random.default_rng(0).standard_normal((5000, 512), dtype=np.float32)
    compute_clusters(points[:20], config)  # so that imports are not measured
    tracemalloc.start()
    try:
        compute_clusters(points, config)
        assert tracemalloc.get_traced_memory()[1] < (max_copies + 0.1) * points.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_huge_features_give_the_same_clusters(tiny_index, tmp_path, metric):
    points = np.repeat(np.eye(4), 3, axis=0) + 0.01 * np.random.default_rng(0).standard_normal((12, 4))
    labels = np.repeat([[0, 1]], 12, axis=0)
    assignments = []
    for size in (1.0, 1e20):
        path = write_features(tmp_path, points * size, labels, tiny_index)
        for more in ((), ("--clusters", "3")):
            run_ok("cluster", "finch", path, "--metric", metric, *more, "-f", "-o", tmp_path / "c.h5")
            assignments.append(Shard(tmp_path / "c.h5").read_root("assignment"))
    np.testing.assert_array_equal(assignments[:2], assignments[2:])


def test_rejects_invalid_features_and_options(features, tiny_index, tmp_path):
    points = np.ones((3, 4))
    points[1, 2] = np.nan
    path = write_features(tmp_path, points, np.ones((3, 2), dtype=int), tiny_index)
    check_error(run("cluster", "finch", path, "-o", tmp_path / "c.h5"), 65, "i1", "NaN or infinite")
    check_error(run("cluster", "finch", features, "-o", tmp_path / "folder"), 2, "this command writes one")
    for partition in ("first", "\u00b2"):  # a superscript two is a digit but not a number
        check_error(run("cluster", "finch", features, "--partition", partition, "-o", tmp_path / "c.h5"), 2, partition)
    check_error(run("cluster", "finch", features, "--partition", "1", "--clusters", "2", "-o", tmp_path / "c.h5"), 2,
                "--partition 1 and --clusters 2")
    check_error(run("cluster", "finch", tiny_index, "-o", tmp_path / "c.h5"), 65, "index")
    run_ok("cluster", "finch", features, "-o", tmp_path / "c.h5")
    check_error(run("cluster", "finch", features, "--metric", "euclidean", "-o", tmp_path / "c.h5"), 73, "metric")
    (tmp_path / "c.h5").write_bytes(b"other")
    check_error(run("cluster", "finch", features, "-o", tmp_path / "c.h5"), 73, "exists", "--force")


def test_features_without_their_index(features, tiny_index, tmp_path, monkeypatch):
    copied_features = Path(shutil.copytree(features, tmp_path / "elsewhere" / "features"))
    monkeypatch.setattr("stages.cluster.stage._cluster_classes", lambda *_: pytest.fail("reported only after the work"))
    check_error(run("cluster", "finch", copied_features, "-o", tmp_path / "c.h5"), 66, "its index",
                "--index")
    monkeypatch.undo()
    run_ok("cluster", "finch", copied_features, "--index", tiny_index, "-o", tmp_path / "c.h5")


def test_every_stage_reports_rejected_images(tiny_dataset, tiny_net, tmp_path):
    root = shutil.copytree(tiny_dataset.root, tmp_path / "set")
    (root / "JPEGImages" / f"{tiny_dataset.ids[2]}.jpg").write_bytes(b"nothing")
    index, features, clusters = tmp_path / "index.h5", tmp_path / "features", tmp_path / "clusters.h5"
    for command in (("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "-o", index),
                    ("features", index, "--net", tiny_net, "-o", features, *CPU),
                    ("cluster", "finch", features, "-o", clusters), ("cluster", "finch", features, "-o", clusters)):
        assert run(*command).code == 65
    assert Shard(clusters).errors == Shard(index).errors != {}
    assert (Shard(clusters).read_root("assignment")[2] == -1).all()
    run_ok("cluster", "finch", features, "--allow-errors", "1", "-o", clusters)
