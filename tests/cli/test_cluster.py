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

from cli.runner import good, refused, run
from stages.cluster import finch, kmeans
from stages.cluster.config import FinchConfig, KmeansConfig
from stages.nets.files import load_net
from stages.shards import Contents, Run, Shard, write_shard

CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def features(tiny_index, tiny_net, tmp_path_factory):
    """Return the features of the tiny set."""
    path = tmp_path_factory.mktemp("features") / "out"
    good("features", tiny_index, "--net", tiny_net, "-o", path, *CPU)
    return path


def test_features_are_the_mean_of_the_last_map(tiny_index, tiny_net, tiny_folder, features):
    shard = Run([features], "features").first
    net, described = load_net(tiny_net)
    rows, labels = shard.root("features"), shard.root("labels")
    assert rows.shape == (12, net.backbone.channels)
    assert labels.shape == (12, 3)
    assert labels[:, 0].sum() == 0
    with Image.open(tiny_folder.root / "JPEGImages" / f"{shard.ids[3]}.jpg") as opened:
        side = described["stride"]
        size = tuple(-(-length // side) * side for length in opened.size)
        image = np.asarray(opened.convert("RGB").resize(size, Image.Resampling.BICUBIC)) / 255
    view = (image - described["mean"]) / described["std"]
    with torch.inference_mode():
        maps = net.eval().backbone(torch.from_numpy(view.astype(np.float32)).permute(2, 0, 1)[None])
    np.testing.assert_allclose(rows[3], maps.mean((2, 3))[0], rtol=1e-3, atol=1e-4)


def test_features_of_a_png_go_beside_it(tiny_index, tiny_net, tiny_folder, features, tmp_path):
    name = tiny_folder.ids[3]
    with Image.open(tiny_folder.root / "JPEGImages" / f"{name}.jpg") as opened:
        opened.save(tmp_path / "photo.png")
    good("features", tmp_path / "photo.png", "--net", tiny_net, "-o", tmp_path, *CPU)
    row = Run([features], "features").first
    np.testing.assert_allclose(Run([tmp_path], "features").first.root("features")[0],
                               row.root("features")[row.ids.index(name)], rtol=1e-3, atol=1e-4)


def test_an_index_without_an_image_has_no_features_and_is_no_fault(tiny_index, tiny_net, tmp_path):
    whole = Shard(tiny_index)
    write_shard(tmp_path / "none.h5", Contents("index", whole.classes, provenance=whole.provenance,
                                               root_attrs={"root": "."}))
    [made] = good("features", tmp_path / "none.h5", "--net", tiny_net, "-o", tmp_path / "out", *CPU)
    assert Shard(made).root("features").shape == (0, 0)
    assert good("check", tmp_path / "out") == [f"{made}\tgood"]


def test_features_of_a_layer_squashed_and_of_a_timm_network(tiny_index, tiny_net, features, tmp_path):
    import timm

    good("features", tiny_index, "--net", tiny_net, "--size", "32", "--batch-size", "5", "-o", tmp_path / "a", *CPU)
    assert not np.allclose(Shard(next((tmp_path / "a").glob("*.h5"))).root("features"),
                           Run([features]).first.root("features"))
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=3)
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    named = ("--net", "timm:vit_tiny_patch16_224", "--weights", tmp_path / "vit.pth", *CPU)
    good("features", tiny_index, *named, "-o", tmp_path / "vit")
    assert Run([tmp_path / "vit"]).first.root("features").shape == (12, 192)
    good("features", tiny_index, *named, "--layer", "blocks.3", "-o", tmp_path / "block")
    assert Run([tmp_path / "block"]).first.root("features").shape == (12, 192)
    refused(run("features", tiny_index, *named, "--layer", "blocks.99", "-o", tmp_path / "x"), 2, "blocks.99")
    refused(run("features", tiny_index, "--net", "timm:vit_tiny_patch16_224", "-o", tmp_path / "x"), 2, "--weights")


def test_a_layer_that_no_image_passes(tiny_index, tmp_path):
    net = tmp_path / "net.safetensors"
    good("train-cls", "cam", tiny_index, "--net", "timm:convnext_atto", "--crop-size", "32", "--epochs", "1", *CPU,
         "--batch-size", "4", "--threads", "1", "-o", net)
    refused(run("features", tiny_index, "--net", net, "--layer", "model.head", "-o", tmp_path / "x", *CPU), 2,
            "no image passes this layer")
    good("features", tiny_index, "--net", net, "--layer", "model.stages.2", "-o", tmp_path / "y", *CPU)


def test_image_files(tiny_folder, tiny_net, features, tmp_path):
    photos = sorted((tiny_folder.root / "JPEGImages").iterdir())[:3]
    command = ("features", *photos, "--net", tiny_net, *CPU)
    assert "would make features of 3 image files" in run(*command, "-n", "-o", tmp_path / "out").err
    assert not (tmp_path / "out").exists()
    assert good(*command, "-o", tmp_path / "out") == [str(tmp_path / "out" / "features-00000-of-00001.h5")]
    shard = Run([tmp_path / "out"], "features").first
    assert shard.ids == tuple(photo.stem for photo in photos)
    assert (shard.classes, shard.root("labels").tolist()) == (("background",), [[0]] * 3)
    whole = Run([features]).first
    np.testing.assert_allclose(shard.root("features"),
                               whole.root("features")[[whole.ids.index(one) for one in shard.ids]], atol=1e-5)
    assert "up to date" in run(*command, "-o", tmp_path / "out").err
    refused(run(*command, "-o", tmp_path / "out.h5"), 2, "is one file", "give a folder")


def test_a_patch_of_14_pixels_and_a_size_that_it_does_not_divide(tiny_folder, tmp_path):
    import timm

    torch.save(timm.create_model("vit_small_patch14_dinov2", num_classes=0).state_dict(), tmp_path / "vit.pth")
    photo = next((tiny_folder.root / "JPEGImages").iterdir())
    command = ("features", photo, "--net", "timm:vit_small_patch14_dinov2", "--weights", tmp_path / "vit.pth", *CPU)
    good(*command, "-o", tmp_path / "out")
    assert Run([tmp_path / "out"], "features").first.root("features").shape == (1, 384)
    refused(run(*command, "--size", "50", "-o", tmp_path / "x"), 2, "no pictures of 50 x 50 pixels", "give --size 518")


def test_refused_images_have_a_row_of_zeros_and_retry_mends_them(tiny_folder, tiny_net, tmp_path):
    root = shutil.copytree(tiny_folder.root, tmp_path / "set")
    good("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "--class-names", root / "classes.txt",
         "-o", tmp_path / "index.h5")
    victim = root / "JPEGImages" / f"{tiny_folder.ids[2]}.jpg"
    kept = victim.read_bytes()
    victim.write_bytes(b"nothing")
    made = ("features", tmp_path / "index.h5", "--net", tiny_net, "-o", tmp_path / "out", *CPU)
    assert run(*made).code == 65
    before = Run([tmp_path / "out"]).first.root("features")
    assert not before[2].any()
    assert before[3].any()
    victim.write_bytes(kept)
    good(*made, "--retry")
    shard = Run([tmp_path / "out"]).first
    assert shard.root("features")[2].any()
    assert not shard.errors
    np.testing.assert_array_equal(np.delete(shard.root("features"), 2, 0), np.delete(before, 2, 0))


@pytest.mark.parametrize("method", [("finch",), ("finch", "--clusters", "2"), ("finch", "--partition", "0"),
                                    ("finch", "--metric", "euclidean", "--purity-filter"), ("kmeans",),
                                    ("kmeans", "--clusters", "2", "--metric", "cosine")], ids=" ".join)
def test_clusters(features, tmp_path, method):
    out = tmp_path / "clusters.h5"
    assert good("cluster", *method[:1], features, *method[1:], "-o", out) == [str(out)]
    shard, source = Shard(out, "clusters"), Run([features]).first
    assignment, labels, counts = shard.root("assignment"), source.root("labels"), shard.root("n_clusters")
    np.testing.assert_array_equal(assignment >= 0, labels == 1)
    for class_id in (1, 2):
        own = assignment[labels[:, class_id] == 1, class_id]
        assert sorted(set(own.tolist())) == list(range(counts[class_id]))
    if "--clusters" in method:
        assert counts.tolist() == [0, 2, 2]
    if method[0] == "finch":
        partitions = shard.root("partitions")
        assert partitions.shape[1:] == assignment.shape
        assert shard.root("n_partitions")[0] == 0
    told = json.loads("\n".join(good("info", out, "--json")))[0]["clusters"]
    assert list(told) == ["cat", "dog"]
    for class_id, one in enumerate(told.values(), 1):
        assert (one["images"], one["clusters"]) == (labels[:, class_id].sum(), counts[class_id])
        found = partitions[:, :, class_id].max(1) + 1 if method[0] == "finch" else None
        assert one.get("partitions") == (None if found is None else found[:len(one["partitions"])].tolist())
    line = f"cat: {told['cat']['images']} images, {told['cat']['clusters']} clusters"
    assert line in run("cluster", *method[:1], features, *method[1:], "-o", out).err, "also when up to date"
    row = f"{out}\tclusters of cat\timages={told['cat']['images']}, clusters={told['cat']['clusters']}"
    assert any(shown.startswith(row) for shown in good("info", out))
    bytes_before = out.read_bytes()
    assert "is up to date" not in run("cluster", *method[:1], features, *method[1:], "-o", out, "-f").err
    assert out.read_bytes() == bytes_before


def test_a_sheet(features, tmp_path):
    good("cluster", "finch", features, "-o", tmp_path / "c.h5", "--sheet", tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.size[0] > 200


def made_features(tmp_path, points: np.ndarray, labels: np.ndarray, index):
    """Write a features shard with these rows."""
    source = Shard(index)
    ids = [f"i{place}" for place in range(len(points))]
    write_shard(tmp_path / "made.h5", Contents(
        "features", ("background", *(f"c{place}" for place in range(1, labels.shape[1]))), ids=ids,
        provenance=[{"stage": "features"}], index_digest=source.digest, index_path=str(index),
        root_datasets={"features": points.astype("<f4"), "labels": labels.astype("u1")}))
    return tmp_path / "made.h5"


@pytest.mark.parametrize("method", ["finch", "kmeans"])
def test_classes_without_and_with_one_image_and_with_equal_ones(tiny_index, tmp_path, method):
    points = np.concatenate([np.random.default_rng(0).standard_normal((6, 4)), np.ones((4, 4))])
    labels = np.zeros((10, 5), dtype=int)
    labels[0, 2], labels[:6, 3], labels[6:, 4] = 1, 1, 1
    path = made_features(tmp_path, points, labels, tiny_index)
    done = run("cluster", method, path, "-o", tmp_path / "c.h5")
    assert done.code == 0, done.err
    assert "c1: 0 images, 0 clusters" in done.err
    counts = Shard(tmp_path / "c.h5").root("n_clusters")
    assert counts[[0, 1, 2, 4]].tolist() == [0, 0, 1, 1]
    assert counts[3] >= 1


@pytest.mark.parametrize(("clusters", "config", "most"), [
    (finch.clusters, FinchConfig(), 3), (finch.clusters, FinchConfig(metric="euclidean"), 3),
    (kmeans.clusters, KmeansConfig(restarts=1, iterations=2), 6),
    (kmeans.clusters, KmeansConfig(restarts=1, iterations=2, metric="cosine"), 6)])
def test_memory_is_what_help_says(clusters, config, most):
    """Beside the features of the class themselves, which are the fourth and the seventh."""
    points = np.random.default_rng(0).standard_normal((5000, 512), dtype=np.float32)
    clusters(points[:20], config)  # what is imported counts for nothing
    tracemalloc.start()
    try:
        clusters(points, config)
        assert tracemalloc.get_traced_memory()[1] < (most + 0.1) * points.nbytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_huge_features(tiny_index, tmp_path, metric):
    points = np.repeat(np.eye(4), 3, axis=0) + 0.01 * np.random.default_rng(0).standard_normal((12, 4))
    labels = np.repeat([[0, 1]], 12, axis=0)
    found = []
    for size in (1.0, 1e20):
        path = made_features(tmp_path, points * size, labels, tiny_index)
        for more in ((), ("--clusters", "3")):
            good("cluster", "finch", path, "--metric", metric, *more, "-f", "-o", tmp_path / "c.h5")
            found.append(Shard(tmp_path / "c.h5").root("assignment"))
    np.testing.assert_array_equal(found[:2], found[2:])


def test_what_is_refused(features, tiny_index, tmp_path):
    points = np.ones((3, 4))
    points[1, 2] = np.nan
    path = made_features(tmp_path, points, np.ones((3, 2), dtype=int), tiny_index)
    refused(run("cluster", "finch", path, "-o", tmp_path / "c.h5"), 65, "i1", "not finite")
    refused(run("cluster", "finch", features, "-o", tmp_path / "folder"), 2, "one file")
    for partition in ("first", "\u00b2"):  # a superscript two is a digit, and no number
        refused(run("cluster", "finch", features, "--partition", partition, "-o", tmp_path / "c.h5"), 2, partition)
    refused(run("cluster", "finch", features, "--partition", "1", "--clusters", "2", "-o", tmp_path / "c.h5"), 2,
            "exclude")
    refused(run("cluster", "finch", tiny_index, "-o", tmp_path / "c.h5"), 65, "index")
    good("cluster", "finch", features, "-o", tmp_path / "c.h5")
    refused(run("cluster", "finch", features, "--metric", "euclidean", "-o", tmp_path / "c.h5"), 73, "metric")
    (tmp_path / "c.h5").write_bytes(b"mine")
    refused(run("cluster", "finch", features, "-o", tmp_path / "c.h5"), 73, "exists", "--force")


def test_features_without_their_index(features, tiny_index, tmp_path, monkeypatch):
    alone = Path(shutil.copytree(features, tmp_path / "elsewhere" / "features"))
    monkeypatch.setattr("stages.cluster.stage._clustered", lambda *_: pytest.fail("told after the work"))
    refused(run("cluster", "finch", alone, "-o", tmp_path / "c.h5"), 66, "its index is not there", "--index")
    monkeypatch.undo()
    good("cluster", "finch", alone, "--index", tiny_index, "-o", tmp_path / "c.h5")


def test_refused_images_are_told_by_every_stage(tiny_folder, tiny_net, tmp_path):
    root = shutil.copytree(tiny_folder.root, tmp_path / "set")
    (root / "JPEGImages" / f"{tiny_folder.ids[2]}.jpg").write_bytes(b"nothing")
    index, found, clusters = tmp_path / "index.h5", tmp_path / "features", tmp_path / "clusters.h5"
    for made in (("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "-o", index),
                 ("features", index, "--net", tiny_net, "-o", found, *CPU),
                 ("cluster", "finch", found, "-o", clusters), ("cluster", "finch", found, "-o", clusters)):
        assert run(*made).code == 65
    assert Shard(clusters).errors == Shard(index).errors != {}
    assert (Shard(clusters).root("assignment")[2] == -1).all()
    good("cluster", "finch", found, "--allow-errors", "1", "-o", clusters)
