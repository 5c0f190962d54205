"""Runs of every kind as sequences and mappings of items."""

from __future__ import annotations

import pickle
import sys
import types

import numpy as np
import pytest
from PIL import Image

import wsss
from cli.runner import run_ok
from stages.shards import Item, ShardContents, write_shard
from wsss_api.tables import build_rows, list_columns

IDS = tuple(f"picture_{number:03d}" for number in range(7))


def test_a_run_is_a_sequence_and_a_mapping(inside):
    with wsss.open_run("cams", "cams") as run:
        assert (len(run), run.kind, run.classes, run.ids) == (7, "cams", ("background", "cat", "dog"), IDS)
        assert [item.id for item in run] == list(IDS)
        assert run[0].id == IDS[0] and run[-1].id == IDS[6] and run["picture_003"].id == IDS[3]
        assert [item.id for item in run[1:6:2]] == [IDS[1], IDS[3], IDS[5]]
        assert "picture_003" in run and "picture_007" not in run and "other" not in run and 3 not in run
        assert [entry["stage"] for entry in run.provenance] == ["index", "cams"]
        assert len(run.paths) == 3
        assert repr(run) == "<wsss.Run of cams: 7 images, 1 failed, 2 classes>"
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(run))[4].cam, run[4].cam)


def test_failed_and_unknown_images(inside):
    run = wsss.open_run("cams")
    assert list(run.errors) == ["picture_007"] and "changed since it was indexed" in run.errors["picture_007"]
    with pytest.raises(wsss.BadData, match=r"picture_007: this image failed \(.*changed"):
        run["picture_007"]
    with pytest.raises(KeyError) as raised:
        run["pictur_001"]
    assert "has no image 'pictur_001'. Did you mean 'picture_001'?" in str(raised.value)
    with pytest.raises(IndexError):
        run[7]


def test_items_of_an_index(inside):
    run = wsss.open_run("train.h5", kind="index")
    item = run["picture_002"]
    assert (item.path, item.size, item.labels, item.tags) == ("JPEGImages/picture_002.jpg", (48, 64), (1, 2),
                                                              ("cat", "dog"))
    assert (item.captions, item.mask_path) == ((), "SegmentationClass/picture_002.png")
    assert run.root == inside / "set"
    np.testing.assert_array_equal(run.read_image("picture_002"), np.array(Image.open(run.root / item.path)))
    np.testing.assert_array_equal(run.read_truth("picture_002"), np.array(Image.open(run.root / item.mask_path)))


def test_items_of_cams_and_their_masks(inside):
    cams, masks = wsss.open_run("cams"), wsss.open_run("masks")
    for item in cams:
        assert item.class_names == tuple(cams.classes[class_id] for class_id in item.class_ids)
        assert item.cam.dtype == np.float16 and len(item.cam) == len(item.class_ids) == len(item.scores)
        assert item.resize_to_image().shape == (len(item.cam), 48, 64)
        mask = masks[item.id]
        np.testing.assert_array_equal(item.to_mask(), mask.mask)
        assert mask.confidence.shape == mask.mask.shape == mask.size == item.size == (48, 64)
        assert set(mask.class_ids) == set(np.unique(mask.mask)) - {0, 255} and mask.ignore_index == 255
    assert not np.array_equal(cams[0].to_mask("constant:0.9"), masks[0].mask)
    np.testing.assert_array_equal(cams.read_image(IDS[1]), wsss.open_run("train.h5").read_image(IDS[1]))


def test_cams_at_the_size_of_the_image(tmp_path):
    """Rows of 8 bits, bilinear with half-pixel centres: cells 0 and 1 stretched over four columns."""
    cam = np.array([[[0, 255]]], np.uint8)
    attrs = {"height": 1, "width": 4, "covers": np.array([1, 4])}
    write_shard(tmp_path / "cams.h5", ShardContents(
        "cams", ("background", "cat"), [Item("a", {"class_ids": np.array([1], "<u2"), "cam": cam}, attrs)],
        root_attrs={"background": "none"}))
    item = wsss.open_run(tmp_path / "cams.h5")[0]
    np.testing.assert_allclose(item.resize_to_image(), [[[0, 0.25, 0.75, 1]]])
    assert item.scores is None and item.to_mask("constant:0.5").tolist() == [[0, 0, 1, 1]]
    with pytest.raises(wsss.UsageError, match="is not constant:V"):
        item.to_mask("0.5")


def test_masks_of_posteriors_take_no_background(tmp_path):
    cam = np.array([[[0.4, 0.7]], [[0.6, 0.3]]], np.float16)
    attrs = {"height": 1, "width": 2, "covers": np.array([1, 2])}
    write_shard(tmp_path / "cams.h5", ShardContents(
        "cams", ("background", "cat"), [Item("a", {"class_ids": np.array([0, 1], "<u2"), "cam": cam}, attrs)],
        root_attrs={"background": "included"}))
    item = wsss.open_run(tmp_path / "cams.h5")[0]
    assert item.has_background and item.to_mask().tolist() == [[1, 0]]
    assert item.to_mask(min_confidence=0.65).tolist() == [[255, 0]]
    with pytest.raises(wsss.UsageError, match="already include a background"):
        item.to_mask("constant:0.5")


def test_features_clusters_and_cooc(inside, tmp_path):
    run_ok("features", "train.h5", "--net", "cam.safetensors", "--device", "cpu", "--shard-size", "3", "-j", "1",
           "--allow-errors", "1", "-o", tmp_path / "features", "-q")
    run_ok("cluster", "kmeans", tmp_path / "features", "--clusters", "2", "--allow-errors", "1", "-o",
           tmp_path / "clusters.h5", "-q")
    run_ok("cooc", "train.h5", "-o", tmp_path / "cooc.h5")
    features = wsss.open_run(tmp_path / "features")
    assert len(features.paths) == 3 and features.arrays["features"].shape[0] == len(features) == 7
    np.testing.assert_array_equal(features.arrays["features"], [item.features for item in features])
    assert features["picture_002"].labels.tolist() == [0, 1, 1]
    clusters = wsss.open_run(tmp_path / "clusters.h5")
    assert len(clusters) == 7 and clusters[1].assignment.tolist()[:2] == [-1, -1] and clusters[1].assignment[2] >= 0
    assert clusters.arrays["n_clusters"].shape == (3,)
    cooc = wsss.open_run(tmp_path / "cooc.h5")
    assert len(cooc) == 0 and list(cooc) == [] and cooc.arrays["counts"].shape == (2, 2)
    assert cooc.arrays["counts"][0, 1] == sum(item.labels == (1, 2) for item in wsss.open_run("train.h5"))


def test_an_unfinished_run(inside, tmp_path):
    for name in ("cams-00000-of-00003.h5", "cams-00002-of-00003.h5"):
        (tmp_path / name).write_bytes((inside / "cams" / name).read_bytes())
    with pytest.raises(wsss.MissingInput, match="lacks part 1 of 3"):
        wsss.open_run(tmp_path)
    run = wsss.open_run(tmp_path, require_all=False, index="train.h5")
    assert run.ids == (*IDS[:3], IDS[6])
    assert run.read_image(IDS[6]).shape == (48, 64, 3)


def test_another_kind_is_an_error(inside):
    with pytest.raises(wsss.BadData, match="holds cams, not masks"):
        wsss.open_run("cams", "masks")


def test_rows_of_tables(inside):
    index, cams, masks = wsss.open_run("train.h5"), wsss.open_run("cams"), wsss.open_run("masks")
    assert build_rows(index)[2] == ("picture_002", "JPEGImages/picture_002.jpg", 48, 64, ("cat", "dog"), (), True)
    rows = build_rows(cams)
    assert len(rows) == sum(len(item.cam) for item in cams)
    first = cams[0]
    expected = (first.id, "cat", 1, first.scores[0], first.cam[0].astype(float).mean(), first.cam[0].max(), 48, 64)
    assert rows[0][:3] == expected[:3] and rows[0][3:] == pytest.approx(expected[3:])
    of_first = [row for row in build_rows(masks) if row[0] == IDS[0]]
    assert sum(row[3] for row in of_first) == 48 * 64 and sum(row[4] for row in of_first) == pytest.approx(1)
    for row in of_first:
        item = masks[0]
        assert row[3] == (item.mask == row[2]).sum()
        assert row[5] == pytest.approx(item.confidence[item.mask == row[2]].mean() / 255)
    for run in (index, cams, masks):
        assert {len(row) for row in build_rows(run)} == {len(list_columns(run))}


def test_a_table_without_pandas(inside, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(wsss.Unavailable, match="pip install pandas"):
        wsss.open_run("cams").to_pandas()


def test_a_table_of_pandas(inside, tmp_path):
    pandas = pytest.importorskip("pandas")
    table = wsss.open_run("masks").to_pandas()
    assert isinstance(table, pandas.DataFrame) and table.index.name == "id"
    assert table.groupby(level=0)["pixels"].sum().tolist() == [48 * 64] * 7
    counts = wsss.cooc("train.h5", output=tmp_path / "cooc.h5").open().to_pandas()
    assert counts.loc["cat", "dog"] == wsss.open_run(tmp_path / "cooc.h5").arrays["counts"][0, 1] > 0


def test_pandas_gets_rows_and_columns(inside, monkeypatch):
    """Stands in for pandas, which is not needed to run the tests."""
    class Frame:
        def __init__(self, rows, columns):
            self.rows, self.columns = rows, columns

        def set_index(self, name):
            return name, self.rows, self.columns

    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=Frame))
    name, rows, columns = wsss.open_run("cams").to_pandas()
    assert name == columns[0] == "id" and rows == build_rows(wsss.open_run("cams"))
