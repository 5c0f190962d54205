"""`wsss cooc`: the shard, the table in its three forms, the plot, and messages about unusual indexes."""

from __future__ import annotations

import json
import os
import pty
import subprocess

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, run, run_ok
from stages.shards import Item, Shard, ShardContents, check_shard, write_shard
from waiting import PATIENCE

CLASSES = ("background", "cat", "dog", "sofa")
TAGS = "id,tags\na,cat\nb,cat;dog\nc,\nd,cat;dog;sofa\ne,dog\nf,cat\n"


@pytest.fixture
def index(tmp_path):
    """Return an index of the tags of six images, one of which has no tag."""
    (tmp_path / "tags.csv").write_text(TAGS)
    (tmp_path / "names.txt").write_text("\n".join(CLASSES[1:]))
    run_ok("index", "table", tmp_path / "tags.csv", "--class-names", tmp_path / "names.txt", "--tags-only", "-o",
           tmp_path / "index.h5")
    return tmp_path / "index.h5"


def write_index(path, labels, classes=CLASSES):
    """Write an index with these labels: None if they are unknown, a reason if the image was rejected."""
    items = []
    for position, image_labels in enumerate(labels):
        if isinstance(image_labels, str):
            items.append(Item(f"i{position}", error=image_labels))
        else:
            datasets = {} if image_labels is None else {"labels": np.array(image_labels, "<u2")}
            items.append(Item(f"i{position}", datasets, {"path": f"{position}.jpg"}))
    provenance = [{"stage": "index", "config": {}, "inputs": {}}]
    write_shard(path, ShardContents("index", classes, items, provenance=provenance, root_attrs={"root": "."}))
    return path


def test_writes_counts_and_probabilities(index, tmp_path):
    done = run("cooc", index, "-o", tmp_path / "cooc.h5")
    assert done.code == 0
    assert "Counted 6 of 6 images: 3 with one class, 2 with several, 1 with none." in done.err
    assert "1 of 3 classes are in no single-label image: sofa." in done.err
    assert str(tmp_path / "cooc.h5") in done.err
    shard = Shard(tmp_path / "cooc.h5", "cooc")
    assert shard.read_root("counts").tolist() == [[2, 2, 1], [2, 1, 1], [1, 1, 0]]
    np.testing.assert_allclose(shard.read_root("probability"), [[0.4, 0.4, 0.2], [0.5, 0.25, 0.25], [0.5, 0.5, 0]])
    assert shard.read_root("single_label").tolist() == [2, 1, 0]
    assert (shard.classes, shard.ids) == (CLASSES, tuple("abcdef"))
    assert shard.index_digest == Shard(index).digest
    assert shard.attribute("index_path") == "index.h5"
    assert [entry["stage"] for entry in shard.provenance] == ["index", "cooc"]
    assert not list(check_shard(shard.path))


@pytest.mark.parametrize(("diagonal", "expected"), [("single", [2, 1, 0]), ("all", [4, 3, 1]), ("zero", [0, 0, 0])])
def test_the_diagonal(index, tmp_path, diagonal, expected):
    run_ok("cooc", index, "-o", tmp_path / "cooc.h5", "--diagonal", diagonal)
    assert Shard(tmp_path / "cooc.h5").read_root("counts").diagonal().tolist() == expected


def test_prints_only_the_table_to_stdout(wsss, index, tmp_path):
    done = wsss("cooc", index, "-o", "cooc.h5")
    assert done.code == 0
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert rows == [["class", "single_label", "cat", "dog", "sofa"], ["cat", "2", "0.400000", "0.400000", "0.200000"],
                    ["dog", "1", "0.500000", "0.250000", "0.250000"], ["sofa", "0", "0.500000", "0.500000", "0.000000"]]
    assert run_ok("cooc", index, "-o", tmp_path / "cooc.h5") == done.out.splitlines(), "also when up to date"
    result = json.loads("\n".join(run_ok("cooc", index, "-o", tmp_path / "cooc.h5", "--json")))
    assert result["counts"]["dog"] == {"cat": 2, "dog": 1, "sofa": 1}
    assert result["probability"]["cat"]["sofa"] == 0.2
    assert result["single_label"] == {"cat": 2, "dog": 1, "sofa": 0}
    assert (result["diagonal"], result["images"], result["refused"]) == ("single", 6, 0)


@pytest.mark.parametrize("piped", [True, False], ids=["piped", "on the terminal"])
def test_table_on_a_terminal(wsss, index, tmp_path, piped):
    """Progress bars on a terminal must not be mixed into the table on a pipe."""
    parent_end, child_end = pty.openpty()
    with os.fdopen(child_end, "w") as terminal:
        done = subprocess.run(wsss._words(("cooc", index, "-o", tmp_path / "cooc.h5")), env=wsss._environment(None),
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if piped else terminal, stderr=terminal,
                              check=False, timeout=PATIENCE)
    terminal_text = os.read(parent_end, 1 << 16).decode()
    os.close(parent_end)
    assert done.returncode == 0
    if piped:
        assert done.stdout.decode().startswith("class\tsingle_label\tcat\t")
        assert "single_label" not in terminal_text
    else:
        rows = [line.split() for line in terminal_text.splitlines()]
        assert [row[-6:] for row in rows if "sofa" in row][-1] == ["3", "sofa", "0", "0.50", "0.50", "."]
        assert any(row[-5:] == ["class", "single_label", "1", "2", "3"] for row in rows)


def test_plots_the_probabilities(index, tmp_path):
    run_ok("cooc", index, "-o", tmp_path / "cooc.h5", "--plot", tmp_path / "new" / "cooc.png")
    with Image.open(tmp_path / "new" / "cooc.png") as picture:
        assert picture.mode == "RGB"
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 20
    (tmp_path / "new" / "cooc.png").unlink()
    run_ok("cooc", index, "-o", tmp_path / "cooc.h5", "--plot", tmp_path / "new" / "cooc.png")
    assert (tmp_path / "new" / "cooc.png").exists(), "also of a shard that is up to date"


def test_plot_never_replaces_a_shard(index, tmp_path):
    before = index.read_bytes()
    for plot in (index, tmp_path / "cooc.h5", tmp_path / "picture"):
        check_error(run("cooc", index, "-o", tmp_path / "cooc.h5", "--plot", plot), 2, f"--plot {plot}", "FILE.png")
    assert index.read_bytes() == before and not (tmp_path / "cooc.h5").exists()


def test_up_to_date_changed_settings_and_dry_run(index, tmp_path):
    output = tmp_path / "cooc.h5"
    dry = run("cooc", index, "-o", output, "-n")
    assert (dry.code, dry.out) == (0, "")
    assert not output.exists()
    run_ok("cooc", index, "-o", output)
    before = output.read_bytes()
    assert "up to date" in run("cooc", index, "-o", output).err
    check_error(run("cooc", index, "-o", output, "--diagonal", "zero"), 73, "diagonal: single -> zero", "--force")
    assert output.read_bytes() == before
    run_ok("cooc", index, "-o", output, "--diagonal", "zero", "--force")
    run_ok("cooc", index, "-o", output, "--force")
    assert output.read_bytes() == before
    output.write_bytes(b"something else")
    check_error(run("cooc", index, "-o", output), 73, str(output), "--force")
    check_error(run("cooc", index, "-o", tmp_path / "out"), 2, "FILE.h5")
    check_error(run("cooc", output.with_name("none.h5"), "-o", output, "-f"), 66, "none.h5")
    check_error(run("cooc", index, "-o", output, "--diagonal", "mean"), 2, "single, all, zero")


def test_counts_all_parts_of_an_index(index, tmp_path):
    run_ok("index", "table", tmp_path / "tags.csv", "--class-names", tmp_path / "names.txt", "--tags-only", "-o",
           tmp_path / "parts", "--shard-size", "2")
    tables = [run_ok("cooc", path, "-o", tmp_path / f"{path.stem}-cooc.h5") for path in (index, tmp_path / "parts")]
    assert tables[0] == tables[1]
    (tmp_path / "parts" / "index-00001-of-00003.h5").unlink()
    check_error(run("cooc", tmp_path / "parts", "-o", tmp_path / "x.h5"), 66, "lacks part 1")


def test_skips_unknown_and_rejected_images(tmp_path):
    path = write_index(tmp_path / "index.h5", [[1], None, "is no image", [1, 3], None])
    done = run("cooc", path, "-o", tmp_path / "cooc.h5")
    assert done.code == 65
    assert "Skipped 2 of 5 images because their labels are unknown." in done.err
    assert "Skipped 1 of 5 images because the index rejected them." in done.err
    assert "1 of 3 classes are in no image: dog." in done.err
    shard = Shard(tmp_path / "cooc.h5")
    assert shard.errors == {"i2": "is no image"}
    assert shard.read_root("counts").tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert shard.read_root("probability")[1].tolist() == [0, 0, 0]
    assert run("cooc", path, "-o", tmp_path / "cooc.h5").code == 65
    assert run("cooc", path, "-o", tmp_path / "cooc.h5", "--allow-errors", "1").code == 0


@pytest.mark.parametrize(("labels", "classes", "message"), [
    ([[1], [2], []], CLASSES, "No image has more than one class"),
    ([[1], [1]], CLASSES[:2], "only one class"),
    ([[1, 2], [2, 3]], CLASSES, "3 of 3 classes are in no single-label image: cat, dog, sofa.")])
def test_warns_of_unusual_labels(tmp_path, labels, classes, message):
    done = run("cooc", write_index(tmp_path / "index.h5", labels, classes), "-o", tmp_path / "cooc.h5")
    assert done.code == 0
    assert message in done.err


@pytest.mark.parametrize(("labels", "classes", "message"), [
    ([], CLASSES, "the index has no images"),
    ([[], None, "no image"], CLASSES,
     "no image has a class (images without a class: 1, with unknown labels: 1, rejected: 1)"),
    ([None, None], CLASSES, "the labels of all images are unknown (images without a class: 0, with unknown labels: 2"),
    ([[]], CLASSES[:1], "the index has no classes"),
    ([[1], [4]], CLASSES, "item i1: the labels [4] are not all class ids from 1 to 3"),
    ([[0, 1]], CLASSES, "item i0: the labels [0, 1]")])
def test_rejects_indexes_without_usable_labels(tmp_path, labels, classes, message):
    path = write_index(tmp_path / "index.h5", labels, classes)
    check_error(run("cooc", path, "-o", tmp_path / "cooc.h5"), 65, str(path), message)
    assert not (tmp_path / "cooc.h5").exists()


def test_duplicate_labels_count_once(tmp_path):
    run_ok("cooc", write_index(tmp_path / "index.h5", [[3, 1, 3], [2, 2]]), "-o", tmp_path / "cooc.h5")
    assert Shard(tmp_path / "cooc.h5").read_root("counts").tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_reads_only_the_labels(index, tmp_path, monkeypatch):
    """Reading whole items, with their checksums, takes ten times as long (benchmarks/cooc.py)."""
    run_ok("cooc", index, "-o", tmp_path / "reference.h5")
    monkeypatch.delattr(Shard, "item")
    monkeypatch.delattr(Shard, "items")
    run_ok("cooc", index, "-o", tmp_path / "cooc.h5")
    assert (tmp_path / "cooc.h5").read_bytes() == (tmp_path / "reference.h5").read_bytes()
