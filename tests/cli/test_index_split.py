"""`wsss index split`: the single-label and the multi-label images as indexes of their own."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from cli.runner import copy_of, good, index_table, refused, run
from shards.samples import same_items
from stages.data.source import ImageSource
from stages.shards import Contents, Item, Shard, check_shard, write_shard


@pytest.fixture
def index(tiny_folder, tmp_path):
    """Return an index with images and masks; the tags of one image are unknown, another has none."""
    root = copy_of(tiny_folder, tmp_path / "set")
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join([*lines[:2], lines[2].split(",")[0] + ",", *lines[4:], ""]))
    assert index_table(root, tmp_path / "index.h5").code == 0
    return tmp_path / "index.h5"


@pytest.mark.parametrize(("domain", "wanted"), [("--single", {1}), ("--multi", {2})])
def test_a_domain_keeps_all_of_its_images(index, tmp_path, domain, wanted):
    output = tmp_path / "below" / "part.h5"
    done = run("index", "split", index, domain, "-o", output)
    assert (done.code, done.out) == (0, f"{output}\n")
    whole, part = Shard(index), Shard(output, "index")
    assert part.ids == tuple(item.id for item in whole.items() if len(item.datasets["labels"]) in wanted)
    assert 0 < len(part.ids) < len(whole.ids)
    assert all(same_items(whole.item(one), part.item(one)) for one in part.ids)
    assert part.classes == whole.classes
    assert part.attribute("root") == f"../{whole.attribute('root')}"
    assert [entry.get("method") for entry in part.provenance] == ["table", "split"]
    assert part.provenance[1]["inputs"] == {"index": whole.digest}
    assert not list(check_shard(output))
    source, before = ImageSource(part), ImageSource(whole)
    np.testing.assert_array_equal(source.image(part.ids[0]), before.image(part.ids[0]))
    np.testing.assert_array_equal(source.mask(part.ids[0]), before.mask(part.ids[0]))


def test_what_belongs_to_neither_is_told(tmp_path):
    labels = [[1], None, [], [1, 2], [2], "is no image"]
    items = [Item(f"i{place}", error=one) if isinstance(one, str) else
             Item(f"i{place}", {} if one is None else {"labels": np.array(one, "<u2")}, {"path": f"{place}.jpg"})
             for place, one in enumerate(labels)]
    write_shard(tmp_path / "index.h5", Contents("index", ("background", "a", "b"), items, provenance=[{}],
                                                root_attrs={"root": "photos"}))
    single = run("index", "split", tmp_path / "index.h5", "--single", "-o", tmp_path / "single.h5")
    assert single.code == 0
    assert ("2 images bear one class; left out: 1 bear more than one class, 1 bear none, 1 have unknown labels, 1 were "
            "refused") in single.err
    multi = run("index", "split", tmp_path / "index.h5", "--multi", "-o", tmp_path / "multi.h5")
    assert "1 images bear more than one class; left out: 2 bear one class" in multi.err
    assert Shard(tmp_path / "single.h5").ids == ("i0", "i4")
    assert Shard(tmp_path / "multi.h5").ids == ("i3",)
    assert not Shard(tmp_path / "multi.h5").errors
    assert Shard(tmp_path / "multi.h5").attribute("root") == "photos"


def test_packed_images_and_captions_come_along(tiny_folder, tmp_path):
    root = copy_of(tiny_folder, tmp_path / "set")
    lines = (root / "labels.csv").read_text().splitlines()
    rows = [f"{line},a {line.split(',')[0]}" for line in lines[1:]]
    (root / "labels.csv").write_text("\n".join(["id,labels,caption", *rows]))
    assert index_table(root, tmp_path / "packed.h5", "--pack").code == 0
    good("index", "split", tmp_path / "packed.h5", "--multi", "-o", tmp_path / "multi.h5")
    shutil.rmtree(root)
    source = ImageSource(Shard(tmp_path / "multi.h5"))
    for one in source.index.ids:
        assert source.image(one).shape == (*source.mask(one).shape, 3)
        assert source.index.item(one).datasets["captions"][0].startswith(b"a " + one.encode())


def test_parts_in_parts_out_and_the_next_stage(index, tiny_net, tmp_path):
    good("index", "split", index, "--single", "-o", tmp_path / "parts", "--shard-size", "3")
    parts = sorted((tmp_path / "parts").glob("index-*.h5"))
    assert len(parts) > 1
    good("index", "split", tmp_path / "parts", "--single", "-o", tmp_path / "again.h5")
    assert Shard(tmp_path / "again.h5").ids == tuple(one for part in parts for one in Shard(part).ids)
    good("features", tmp_path / "again.h5", "--net", tiny_net, "-o", tmp_path / "features", "--device", "cpu")
    one_file = run("index", "split", index, "--single", "-o", tmp_path / "x.h5", "--shard-size", "3")
    refused(one_file, 73, "--shard-size 3")


def test_up_to_date_and_not_overwritten(index, tmp_path):
    output = tmp_path / "part.h5"
    assert run("index", "split", index, "--single", "-o", output, "-n").out == ""
    assert not output.exists()
    good("index", "split", index, "--single", "-o", output)
    before = output.read_bytes()
    good("index", "split", index, "--single", "-o", output)
    refused(run("index", "split", index, "--multi", "-o", output), 73, "multi", "--force")
    refused(run("index", "split", index, "--multi", "-o", index), 2, str(index))
    assert output.read_bytes() == before
    good("index", "split", index, "--multi", "-o", output, "-f")
    assert output.read_bytes() != before


def test_what_can_not_be_split(index, tmp_path):
    out = ("-o", tmp_path / "out.h5")
    refused(run("index", "split", index, *out), 2, "--single", "--multi")
    refused(run("index", "split", index, "--single", "--multi", *out), 2, "--single", "--multi")
    refused(run("index", "split", tmp_path / "none.h5", "--single", *out), 66, "none.h5")
    good("index", "split", index, "--single", "-o", tmp_path / "single.h5")
    refused(run("index", "split", tmp_path / "single.h5", "--multi", *out), 65, "no image bears more than one class",
            "single.h5")
    write_shard(tmp_path / "empty.h5", Contents("index", ("background", "a"), provenance=[{}],
                                                root_attrs={"root": "."}))
    refused(run("index", "split", tmp_path / "empty.h5", "--single", *out), 65, "no image bears one class", "empty.h5")
    assert not (tmp_path / "out.h5").exists()


def test_parts_with_images_in_different_places_are_not_mixed(tmp_path):
    item = {"labels": np.array([1], "<u2")}
    for part, root in enumerate(("here", "there")):
        write_shard(tmp_path / f"{part}.h5", Contents(
            "index", ("background", "a"), [Item(f"i{part}", item, {"path": "x.jpg"})], part=part, parts=2,
            provenance=[{}], root_attrs={"root": root}))
    done = run("index", "split", tmp_path / "0.h5", tmp_path / "1.h5", "--single", "-o", tmp_path / "out.h5")
    refused(done, 65, "there", "here", "1.h5")
