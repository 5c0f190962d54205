"""`wsss cooc`: the shard, the table in its three forms, the picture, and what is told of odd indexes."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import numpy as np
import pytest
from PIL import Image

from cli.runner import good, refused, run
from stages.shards import Contents, Item, Shard, check_shard, write_shard
from waiting import PATIENCE

CLASSES = ("background", "cat", "dog", "sofa")
TAGS = "id,tags\na,cat\nb,cat;dog\nc,\nd,cat;dog;sofa\ne,dog\nf,cat\n"


@pytest.fixture
def index(tmp_path):
    """Return an index of tags of six images, one of them known to have none."""
    (tmp_path / "tags.csv").write_text(TAGS)
    (tmp_path / "names.txt").write_text("\n".join(CLASSES[1:]))
    good("index", "table", tmp_path / "tags.csv", "--class-names", tmp_path / "names.txt", "--tags-only", "-o",
         tmp_path / "index.h5")
    return tmp_path / "index.h5"


def index_of(path, labels, classes=CLASSES):
    """Write an index with these labels: None where they are unknown, a text where the image was refused."""
    items = [Item(f"i{place}", error=one) if isinstance(one, str) else
             Item(f"i{place}", {} if one is None else {"labels": np.array(one, "<u2")}, {"path": f"{place}.jpg"})
             for place, one in enumerate(labels)]
    write_shard(path, Contents("index", classes, items, provenance=[{"stage": "index", "config": {}, "inputs": {}}],
                               root_attrs={"root": "."}))
    return path


def test_the_shard(index, tmp_path):
    done = run("cooc", index, "-o", tmp_path / "cooc.h5")
    assert done.code == 0
    assert "6 images with known labels: 3 bear one class, 2 more than one, 1 none" in done.err
    assert "classes without a single-label image: 1 (sofa)" in done.err
    assert str(tmp_path / "cooc.h5") in done.err
    shard = Shard(tmp_path / "cooc.h5", "cooc")
    assert shard.root("counts").tolist() == [[2, 2, 1], [2, 1, 1], [1, 1, 0]]
    np.testing.assert_allclose(shard.root("probability"), [[0.4, 0.4, 0.2], [0.5, 0.25, 0.25], [0.5, 0.5, 0]])
    assert shard.root("single_label").tolist() == [2, 1, 0]
    assert (shard.classes, shard.ids) == (CLASSES, tuple("abcdef"))
    assert shard.index_digest == Shard(index).digest
    assert shard.attribute("index_path") == "index.h5"
    assert [one["stage"] for one in shard.provenance] == ["index", "cooc"]
    assert not list(check_shard(shard.path))


@pytest.mark.parametrize(("diagonal", "own"), [("single", [2, 1, 0]), ("all", [4, 3, 1]), ("zero", [0, 0, 0])])
def test_the_diagonal(index, tmp_path, diagonal, own):
    good("cooc", index, "-o", tmp_path / "cooc.h5", "--diagonal", diagonal)
    assert Shard(tmp_path / "cooc.h5").root("counts").diagonal().tolist() == own


def test_the_table_alone_stands_on_standard_output(wsss, index, tmp_path):
    done = wsss("cooc", index, "-o", "cooc.h5")
    assert done.code == 0
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert rows == [["class", "single_label", "cat", "dog", "sofa"], ["cat", "2", "0.400000", "0.400000", "0.200000"],
                    ["dog", "1", "0.500000", "0.250000", "0.250000"], ["sofa", "0", "0.500000", "0.500000", "0.000000"]]
    assert good("cooc", index, "-o", tmp_path / "cooc.h5") == done.out.splitlines(), "also when up to date"
    result = json.loads("\n".join(good("cooc", index, "-o", tmp_path / "cooc.h5", "--json")))
    assert result["counts"]["dog"] == {"cat": 2, "dog": 1, "sofa": 1}
    assert result["probability"]["cat"]["sofa"] == 0.2
    assert result["single_label"] == {"cat": 2, "dog": 1, "sofa": 0}
    assert (result["diagonal"], result["images"], result["refused"]) == ("single", 6, 0)


@pytest.mark.parametrize("piped", [True, False], ids=["piped", "on the terminal"])
def test_on_a_terminal(wsss, index, tmp_path, piped):
    """Where standard error is a terminal, the bars there must not draw in what is meant for a pipe."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        done = subprocess.run(wsss._words(("cooc", index, "-o", tmp_path / "cooc.h5")), env=wsss._environment(None),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if piped else terminal, stderr=terminal,
                              check=False, timeout=PATIENCE)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.returncode == 0
    if piped:
        assert done.stdout.decode().startswith("class\tsingle_label\tcat\t")
        assert "single_label" not in shown
    else:
        rows = [line.split() for line in shown.splitlines()]
        assert [row[-6:] for row in rows if "sofa" in row][-1] == ["3", "sofa", "0", "0.50", "0.50", "."]
        assert any(row[-5:] == ["class", "single_label", "1", "2", "3"] for row in rows)


def test_the_picture(index, tmp_path):
    good("cooc", index, "-o", tmp_path / "cooc.h5", "--plot", tmp_path / "new" / "cooc.png")
    with Image.open(tmp_path / "new" / "cooc.png") as picture:
        assert picture.mode == "RGB"
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 20
    (tmp_path / "new" / "cooc.png").unlink()
    good("cooc", index, "-o", tmp_path / "cooc.h5", "--plot", tmp_path / "new" / "cooc.png")
    assert (tmp_path / "new" / "cooc.png").exists(), "also of a shard that is up to date"


def test_a_picture_never_takes_the_place_of_a_shard(index, tmp_path):
    before = index.read_bytes()
    for plot in (index, tmp_path / "cooc.h5", tmp_path / "picture"):
        refused(run("cooc", index, "-o", tmp_path / "cooc.h5", "--plot", plot), 2, f"--plot {plot}", "FILE.png")
    assert index.read_bytes() == before and not (tmp_path / "cooc.h5").exists()


def test_up_to_date_other_settings_and_a_dry_run(index, tmp_path):
    output = tmp_path / "cooc.h5"
    dry = run("cooc", index, "-o", output, "-n")
    assert (dry.code, dry.out) == (0, "")
    assert not output.exists()
    good("cooc", index, "-o", output)
    before = output.read_bytes()
    assert "up to date" in run("cooc", index, "-o", output).err
    refused(run("cooc", index, "-o", output, "--diagonal", "zero"), 73, "diagonal: single -> zero", "--force")
    assert output.read_bytes() == before
    good("cooc", index, "-o", output, "--diagonal", "zero", "--force")
    good("cooc", index, "-o", output, "--force")
    assert output.read_bytes() == before
    output.write_bytes(b"something else")
    refused(run("cooc", index, "-o", output), 73, str(output), "--force")
    refused(run("cooc", index, "-o", tmp_path / "out"), 2, "FILE.h5")
    refused(run("cooc", output.with_name("none.h5"), "-o", output, "-f"), 66, "none.h5")
    refused(run("cooc", index, "-o", output, "--diagonal", "mean"), 2, "single, all, zero")


def test_parts_of_an_index_are_counted_together(index, tmp_path):
    good("index", "table", tmp_path / "tags.csv", "--class-names", tmp_path / "names.txt", "--tags-only", "-o",
         tmp_path / "parts", "--shard-size", "2")
    whole, parts = (good("cooc", one, "-o", tmp_path / f"{one.stem}-cooc.h5") for one in (index, tmp_path / "parts"))
    assert whole == parts
    (tmp_path / "parts" / "index-00001-of-00003.h5").unlink()
    refused(run("cooc", tmp_path / "parts", "-o", tmp_path / "x.h5"), 66, "lacks part 1")


def test_unknown_and_refused_images_are_left_out_and_told(tmp_path):
    path = index_of(tmp_path / "index.h5", [[1], None, "is no image", [1, 3], None])
    done = run("cooc", path, "-o", tmp_path / "cooc.h5")
    assert done.code == 65
    assert "2 images have unknown labels" in done.err
    assert "1 images were refused at index" in done.err
    assert "classes in no image at all: 1 (dog)" in done.err
    shard = Shard(tmp_path / "cooc.h5")
    assert shard.errors == {"i2": "is no image"}
    assert shard.root("counts").tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert shard.root("probability")[1].tolist() == [0, 0, 0]
    assert run("cooc", path, "-o", tmp_path / "cooc.h5").code == 65
    assert run("cooc", path, "-o", tmp_path / "cooc.h5", "--allow-errors", "1").code == 0


@pytest.mark.parametrize(("labels", "classes", "told"), [
    ([[1], [2], []], CLASSES, "no image bears more than one class"),
    ([[1], [1]], CLASSES[:2], "one class only"),
    ([[1, 2], [2, 3]], CLASSES, "classes without a single-label image: 3 (cat, dog, sofa)")])
def test_what_is_counted_all_the_same(tmp_path, labels, classes, told):
    done = run("cooc", index_of(tmp_path / "index.h5", labels, classes), "-o", tmp_path / "cooc.h5")
    assert done.code == 0
    assert told in done.err


@pytest.mark.parametrize(("labels", "classes", "told"), [
    ([], CLASSES, "holds no images"), ([[], None, "no image"], CLASSES, "no image bears a class (1 known to have none"),
    ([None, None], CLASSES, "the labels of all images are unknown (0 known to have none, 2 unknown"),
    ([[]], CLASSES[:1], "has no classes"), ([[1], [4]], CLASSES, "item i1: labels [4] are not class ids of 1 to 3"),
    ([[0, 1]], CLASSES, "item i0: labels [0, 1]")])
def test_what_can_not_be_counted(tmp_path, labels, classes, told):
    path = index_of(tmp_path / "index.h5", labels, classes)
    refused(run("cooc", path, "-o", tmp_path / "cooc.h5"), 65, str(path), told)
    assert not (tmp_path / "cooc.h5").exists()


def test_labels_that_stand_twice_count_once(tmp_path):
    good("cooc", index_of(tmp_path / "index.h5", [[3, 1, 3], [2, 2]]), "-o", tmp_path / "cooc.h5")
    assert Shard(tmp_path / "cooc.h5").root("counts").tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_nothing_but_the_labels_is_read(index, tmp_path, monkeypatch):
    """Items read whole, each with its checksum, take ten times as long (benchmarks/cooc.py)."""
    good("cooc", index, "-o", tmp_path / "whole.h5")
    monkeypatch.delattr(Shard, "item")
    monkeypatch.delattr(Shard, "items")
    good("cooc", index, "-o", tmp_path / "cooc.h5")
    assert (tmp_path / "cooc.h5").read_bytes() == (tmp_path / "whole.h5").read_bytes()
