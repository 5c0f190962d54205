"""`wsss index split`: writes the single-label or the multi-label images to an index of their own."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from cli.runner import check_error, copy_dataset, index_table, run, run_ok
from shards.samples import items_equal
from stages.data.image_source import ImageSource
from stages.shards import Item, Shard, ShardContents, check_shard, write_shard


@pytest.fixture
def index(tiny_dataset, tmp_path):
    """Return an index with images and masks; the tags of one image are unknown, another has none."""
    root = copy_dataset(tiny_dataset, tmp_path / "set")
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join([*lines[:2], lines[2].split(",")[0] + ",", *lines[4:], ""]))
    assert index_table(root, tmp_path / "index.h5").code == 0
    return tmp_path / "index.h5"


@pytest.mark.parametrize(("domain", "label_counts"), [("--single", {1}), ("--multi", {2})])
def test_a_domain_has_all_its_images_unchanged(index, tmp_path, domain, label_counts):
    output = tmp_path / "below" / "part.h5"
    done = run("index", "split", index, domain, "-o", output)
    assert (done.code, done.out) == (0, f"{output}\n")
    whole, part = Shard(index), Shard(output, "index")
    assert part.ids == tuple(item.id for item in whole.items() if len(item.datasets["labels"]) in label_counts)
    assert 0 < len(part.ids) < len(whole.ids)
    assert all(items_equal(whole.item(item_id), part.item(item_id)) for item_id in part.ids)
    assert part.classes == whole.classes
    assert part.attribute("root") == f"../{whole.attribute('root')}"
    assert [entry.get("method") for entry in part.provenance] == ["table", "split"]
    assert part.provenance[1]["inputs"] == {"index": whole.digest}
    assert not list(check_shard(output))
    source, before = ImageSource(part), ImageSource(whole)
    np.testing.assert_array_equal(source.read_image(part.ids[0]), before.read_image(part.ids[0]))
    np.testing.assert_array_equal(source.read_mask(part.ids[0]), before.read_mask(part.ids[0]))


def test_images_of_neither_domain_are_counted(tmp_path):
    labels = [[1], None, [], [1, 2], [2], "is no image"]
    items = [Item(f"i{index}", error=ids) if isinstance(ids, str) else
             Item(f"i{index}", {} if ids is None else {"labels": np.array(ids, "<u2")}, {"path": f"{index}.jpg"})
             for index, ids in enumerate(labels)]
    write_shard(tmp_path / "index.h5", ShardContents("index", ("background", "a", "b"), items, provenance=[{}],
                                                     root_attrs={"root": "photos"}))
    single = run("index", "split", tmp_path / "index.h5", "--single", "-o", tmp_path / "single.h5")
    assert single.code == 0
    assert ("Keeping 2 images with one class; leaving out 1 with more than one class, 1 without classes, 1 with "
            "unknown labels, 1 rejected by the index.") in single.err
    multi = run("index", "split", tmp_path / "index.h5", "--multi", "-o", tmp_path / "multi.h5")
    assert "Keeping 1 images with more than one class; leaving out 2 with one class" in multi.err
    assert Shard(tmp_path / "single.h5").ids == ("i0", "i4")
    assert Shard(tmp_path / "multi.h5").ids == ("i3",)
    assert not Shard(tmp_path / "multi.h5").errors
    assert Shard(tmp_path / "multi.h5").attribute("root") == "photos"


def test_packed_images_and_captions_are_copied(tiny_dataset, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "set")
    lines = (root / "labels.csv").read_text().splitlines()
    rows = [f"{line},a {line.split(',')[0]}" for line in lines[1:]]
    (root / "labels.csv").write_text("\n".join(["id,labels,caption", *rows]))
    assert index_table(root, tmp_path / "packed.h5", "--pack").code == 0
    run_ok("index", "split", tmp_path / "packed.h5", "--multi", "-o", tmp_path / "multi.h5")
    shutil.rmtree(root)
    source = ImageSource(Shard(tmp_path / "multi.h5"))
    for item_id in source.index.ids:
        assert source.read_image(item_id).shape == (*source.read_mask(item_id).shape, 3)
        assert source.index.item(item_id).datasets["captions"][0].startswith(b"a " + item_id.encode())


def test_shards_are_read_and_written_and_work_in_the_next_stage(index, tiny_net, tmp_path):
    run_ok("index", "split", index, "--single", "-o", tmp_path / "parts", "--shard-size", "3")
    parts = sorted((tmp_path / "parts").glob("index-*.h5"))
    assert len(parts) > 1
    run_ok("index", "split", tmp_path / "parts", "--single", "-o", tmp_path / "again.h5")
    assert Shard(tmp_path / "again.h5").ids == tuple(item_id for part in parts for item_id in Shard(part).ids)
    run_ok("features", tmp_path / "again.h5", "--net", tiny_net, "-o", tmp_path / "features", "--device", "cpu")
    one_file = run("index", "split", index, "--single", "-o", tmp_path / "x.h5", "--shard-size", "3")
    check_error(one_file, 73, "--shard-size 3")


def test_the_same_split_is_up_to_date_and_a_different_one_is_not_overwritten(index, tmp_path):
    output = tmp_path / "part.h5"
    assert run("index", "split", index, "--single", "-o", output, "-n").out == ""
    assert not output.exists()
    run_ok("index", "split", index, "--single", "-o", output)
    before = output.read_bytes()
    run_ok("index", "split", index, "--single", "-o", output)
    check_error(run("index", "split", index, "--multi", "-o", output), 73, "multi", "--force")
    check_error(run("index", "split", index, "--multi", "-o", index), 2, str(index))
    assert output.read_bytes() == before
    run_ok("index", "split", index, "--multi", "-o", output, "-f")
    assert output.read_bytes() != before


def test_invalid_splits_are_errors(index, tmp_path):
    out = ("-o", tmp_path / "out.h5")
    check_error(run("index", "split", index, *out), 2, "--single", "--multi")
    check_error(run("index", "split", index, "--single", "--multi", *out), 2, "--single", "--multi")
    check_error(run("index", "split", tmp_path / "none.h5", "--single", *out), 66, "none.h5")
    run_ok("index", "split", index, "--single", "-o", tmp_path / "single.h5")
    check_error(run("index", "split", tmp_path / "single.h5", "--multi", *out), 65, "no image has more than one class",
                "single.h5")
    write_shard(tmp_path / "empty.h5", ShardContents("index", ("background", "a"), provenance=[{}],
                                                     root_attrs={"root": "."}))
    check_error(run("index", "split", tmp_path / "empty.h5", "--single", *out), 65, "no image has one class",
                "empty.h5")
    assert not (tmp_path / "out.h5").exists()


def test_shards_with_different_image_roots_are_not_mixed(tmp_path):
    item = {"labels": np.array([1], "<u2")}
    for part, root in enumerate(("here", "there")):
        write_shard(tmp_path / f"{part}.h5", ShardContents(
            "index", ("background", "a"), [Item(f"i{part}", item, {"path": "x.jpg"})], part=part, parts=2,
            provenance=[{}], root_attrs={"root": root}))
    done = run("index", "split", tmp_path / "0.h5", tmp_path / "1.h5", "--single", "-o", tmp_path / "out.h5")
    check_error(done, 65, "there", "here", "1.h5")


def _read_tags(path):
    return [tuple(item.datasets["labels"].tolist()) for item in Shard(path).items()]


def test_holding_out_divides_every_class(index, tmp_path):
    train, val = tmp_path / "train.h5", tmp_path / "below" / "val.h5"
    done = run("index", "split", index, "--holdout", "0.25", "--held-out", val, "-o", train)
    assert (done.code, done.out) == (0, f"{val}\n{train}\n"), done.err
    whole, parts = Shard(index), (Shard(train), Shard(val))
    valid = [item_id for item_id in whole.ids if item_id not in whole.errors]
    assert sorted(parts[0].ids + parts[1].ids) == sorted(valid) and not set(parts[0].ids) & set(parts[1].ids)
    assert abs(len(parts[1].ids) - 0.25 * len(valid)) <= 1
    for class_id in range(1, len(whole.classes)):
        counts = [sum(class_id in tags for tags in _read_tags(part.path)) for part in parts]
        assert abs(counts[1] - 0.25 * sum(counts)) <= 1
        assert f"{whole.classes[class_id]}" in done.err and f"{counts[0]}" in done.err
    assert all(items_equal(whole.item(item_id), part.item(item_id)) for part in parts for item_id in part.ids)
    assert [part.provenance[-1]["config"]["part"] for part in parts] == ["training", "held out"]
    assert all(not list(check_shard(part.path)) for part in parts)
    again = run("index", "split", index, "--holdout", "0.25", "--held-out", val, "-o", train)
    assert again.code == 0 and again.err.count("h5 is up to date") == 2
    other = ("index", "split", index, "--holdout", "0.25", "--seed", "1", "--held-out", tmp_path / "v.h5", "-o")
    assert run(*other, tmp_path / "t.h5").code == 0 and Shard(tmp_path / "v.h5").ids != parts[1].ids


def test_copies_of_an_image_stay_together(tiny_dataset, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "set")
    lines = (root / "labels.csv").read_text().splitlines()
    copies = []
    for line in lines[1:]:
        name, tags = line.split(",", 1)
        shutil.copy(root / "JPEGImages" / f"{name}.jpg", root / "JPEGImages" / f"copy-{name}.jpg")
        copies.append(f"copy-{name},{tags}")
    (root / "labels.csv").write_text("\n".join([*lines, *copies, ""]))
    run_ok("index", "table", root / "labels.csv", "--images", root / "JPEGImages", "-o", tmp_path / "index.h5")
    run_ok("index", "split", tmp_path / "index.h5", "--holdout", "0.4", "--held-out", tmp_path / "val.h5", "-o",
           tmp_path / "train.h5")
    held_out = set(Shard(tmp_path / "val.h5").ids)
    assert held_out and {name.removeprefix("copy-") for name in held_out if name.startswith("copy-")} == {
        name for name in held_out if not name.startswith("copy-")}


def test_a_class_of_one_image_is_named(tmp_path):
    items = [Item(f"i{number}", {"labels": np.array([1 if number else 2], "<u2")}, {"path": f"{number}.jpg"})
             for number in range(9)]
    write_shard(tmp_path / "index.h5", ShardContents("index", ("background", "cat", "otter"), items, provenance=[{}],
                                                     root_attrs={"root": "photos"}))
    done = run("index", "split", tmp_path / "index.h5", "--holdout", "0.3", "--held-out", tmp_path / "val.h5", "-o",
               tmp_path / "train.h5")
    assert done.code == 0 and "No image of otter (1 image) is held out, so it can't be scored." in done.err


@pytest.mark.parametrize(("words", "code", "text"), [
    (("--holdout", "0.2"), 2, "--holdout and --held-out are given together"),
    (("--held-out", "v.h5", "--single"), 2, "--holdout and --held-out are given together"),
    (("--holdout", "0.2", "--single", "--held-out", "v.h5"), 2, "exactly one of --single, --multi and --holdout"),
    (("--holdout", "0.2", "--held-out", "out.h5"), 2, "out.h5"),
    (("--holdout", "0.2", "--held-out", "index.h5", "--force"), 2, "index.h5 is also an input"),
    (("--holdout", "0.001", "--held-out", "v.h5"), 65, "holds out 0 of"),
    (("--holdout", "1.5", "--held-out", "v.h5"), 2, "--holdout"),
    (("--holdout", "nan", "--held-out", "v.h5"), 2, "--holdout")])
def test_what_can_not_be_held_out(index, tmp_path, words, code, text):
    before = index.read_bytes()
    check_error(run("index", "split", index, *words, "-o", "out.h5", cwd=tmp_path), code, text)
    assert index.read_bytes() == before and not (tmp_path / "out.h5").exists()
