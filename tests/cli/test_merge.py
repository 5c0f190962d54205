"""`wsss merge`: the parts of a run in fewer shards, which every reader takes for the run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cli.runner import SMALL, copy_of, good, index_table, refused, run
from shards.samples import same_items
from stages.shards import KINDS, Contents, Run, Shard, write_shard


@pytest.fixture(scope="module")
def folder(tiny_folder, tiny_net, tmp_path_factory) -> Path:
    """Return a folder of runs in parts: maps, masks and features of one index, maps and masks of one in parts."""
    folder = tmp_path_factory.mktemp("merge")
    root = copy_of(tiny_folder, folder / "set")
    (root / "JPEGImages" / "picture_004.jpg").write_bytes(b"")
    assert index_table(root, folder / "i.h5").code == 65
    assert index_table(root, folder / "index", "--shard-size", "5").code == 65
    small = ("--net", tiny_net, *SMALL, "--allow-errors", "1", "-j", "1")
    good("cams", "cnn", folder / "i.h5", *small, "--shard-size", "3", "-o", folder / "cams")
    good("pseudo", folder / "cams", "-o", folder / "masks", "--allow-errors", "1", "-j", "1")
    good("features", folder / "i.h5", "--net", tiny_net, "--shard-size", "3", "-o", folder / "features",
         "--allow-errors", "1", "--device", "cpu", "-j", "1")
    good("cams", "cnn", folder / "index", *small, "-o", folder / "cams-of-parts")
    return folder


def merged(folder: Path, name: str, *more: object) -> Path:
    output = folder / f"{name}-merged.h5"
    good("merge", folder / name, "-o", output, "--allow-errors", "1", *more)
    return output


@pytest.mark.parametrize("name", ["index", "cams", "masks", "features"])
def test_one_shard_says_what_the_parts_say(folder, name):
    parts, one = Run([folder / name]), Run([merged(folder, name)])
    assert (one.kind, one.classes, tuple(one.ids)) == (parts.kind, parts.classes, tuple(parts.ids))
    assert one.first.errors == {key: told for shard in parts.shards for key, told in shard.errors.items()}
    assert len(one.first.errors) == 1
    if name == "features":
        for array in ("features", "labels"):
            np.testing.assert_array_equal(one.first.root(array),
                                          np.concatenate([shard.root(array) for shard in parts.shards]))
    else:
        assert all(same_items(one.item(item_id), parts.item(item_id)) for item_id in parts.ids)
    stages = [entry["stage"] for entry in parts.first.provenance]
    assert [entry["stage"] for entry in one.first.provenance] == [*stages, "merge"]
    assert one.first.provenance[-1]["inputs"] == {parts.kind: parts.digest}
    assert [line.split("\t")[1] for line in good("check", one.first.path)] == ["good"]


def test_the_history_names_all_that_the_parts_were_made_from(folder):
    inputs = Shard(merged(folder, "masks")).provenance[-2]["inputs"]
    assert inputs == {"cams": Run([folder / "cams"]).digest}


def test_fewer_shards_take_neighbours_and_keep_the_order(folder, tmp_path):
    printed = good("merge", folder / "cams", "-o", tmp_path / "two", "--parts", "2", "--allow-errors", "1")
    assert [Path(path).name for path in printed] == ["cams-00000-of-00002.h5", "cams-00001-of-00002.h5"]
    assert tuple(Run([tmp_path / "two"]).ids) == tuple(Run([folder / "cams"]).ids)
    assert [len(Shard(path).ids) for path in printed] == [6, 6]


def test_readers_take_the_merged_run(folder, tmp_path):
    cams, masks = merged(folder, "cams"), merged(folder, "masks")
    good("pseudo", cams, "-o", tmp_path / "masks", "--allow-errors", "1")
    again, before = Run([tmp_path / "masks"]), Run([folder / "masks"])
    assert all(same_items(again.item(item_id), before.item(item_id)) for item_id in before.ids)
    for one, parts in ((masks, folder / "masks"), (cams, folder / "cams")):
        found, wanted = (json.loads("\n".join(good("eval", each, "--json"))) for each in (one, parts))
        assert found == wanted
    assert run("export", "png", masks, "-o", tmp_path / "png").code == 65  # the image that was refused
    assert len(list((tmp_path / "png").iterdir())) == 11
    good("show", cams, masks, "--count", "3", "-o", tmp_path / "look.png")


def test_parts_of_several_indexes_need_the_index_that_was_merged_of_them(folder, tmp_path):
    answer = refused(run("merge", folder / "cams-of-parts", "-o", tmp_path / "c.h5"), 2, "3 indexes", "--index")
    assert "wsss merge INDEX" in answer
    index = merged(folder, "index")
    good("merge", folder / "cams-of-parts", "-o", tmp_path / "c.h5", "--index", index, "--allow-errors", "1")
    assert Shard(tmp_path / "c.h5").index_digest == Shard(index).digest
    good("eval", tmp_path / "c.h5")
    refused(run("merge", folder / "cams-of-parts", "-o", tmp_path / "d.h5", "--index", folder / "i.h5"), 65,
            "was not merged from the indexes")


def test_a_hole_is_told_and_nothing_is_written(folder, tmp_path):
    shards = sorted((folder / "masks").glob("*.h5"))
    refused(run("merge", *shards[:1], *shards[3:], "-o", tmp_path / "m.h5"), 66, "lacks part 1, 2 of 4")
    assert not list(tmp_path.iterdir())


def test_what_can_not_be_merged(folder, tiny_index, tmp_path):
    out = ("-o", tmp_path / "m.h5")
    first = next((folder / "masks").glob("*.h5"))
    refused(run("merge", first, first, *out), 65, "twice")
    refused(run("merge", folder / "masks", *out, "--parts", "5"), 2, "--parts 5", "4 parts")
    refused(run("merge", folder / "masks", *out, "--parts", "2"), 2, "is one file")
    refused(run("merge", folder / "masks", "-o", folder / "masks"), 2, "folder of the run itself")
    refused(run("merge", *out), 66, "no input")
    good("cooc", tiny_index, "-o", tmp_path / "cooc.h5")
    refused(run("merge", tmp_path / "cooc.h5", *out), 65, "holds cooc, not index or features or cams or masks")


def test_parts_of_several_kinds_of_machine_are_merged(folder, tmp_path):
    (tmp_path / "cams").mkdir()
    for path in sorted((folder / "cams").glob("*.h5")):
        shard = Shard(path)
        entry = shard.provenance[-1]
        device = "cuda" if shard.part == 1 else entry["config"]["device"]
        provenance = [*shard.provenance[:-1], {**entry, "config": {**entry["config"], "device": device}}]
        write_shard(tmp_path / "cams" / path.name, Contents(
            "cams", shard.classes, list(shard.items()), shard.part, shard.parts, provenance=provenance,
            index_digest=shard.index_digest, index_path=os.path.relpath(folder / "i.h5", tmp_path / "cams"),
            root_attrs={name: shard.attribute(name) for name in KINDS["cams"].root_attrs}))
    good("check", tmp_path / "cams")
    good("merge", tmp_path / "cams", "-o", tmp_path / "m.h5", "--allow-errors", "1")


def test_parts_that_were_made_otherwise(folder, tmp_path):
    good("pseudo", folder / "cams", "--background", "power:3", "-o", tmp_path / "other", "--allow-errors", "1",
         "-j", "1")
    shards = sorted((folder / "masks").glob("*.h5"))
    other = sorted((tmp_path / "other").glob("*.h5"))
    refused(run("merge", *shards[:3], other[3], "-o", tmp_path / "m.h5"), 65, str(other[3]), "made otherwise",
            "background")


def test_merging_again_is_up_to_date_and_replaces_nothing_unasked(folder, tmp_path):
    command = ("merge", folder / "masks", "-o", tmp_path / "m.h5", "--allow-errors", "1")
    dry = run(*command, "-n")
    assert (dry.code, dry.out) == (0, "") and "would join 4 shards" in dry.err and not list(tmp_path.iterdir())
    good(*command)
    before = (tmp_path / "m.h5").read_bytes()
    good(*command)
    refused(run("merge", folder / "cams", "-o", tmp_path / "m.h5"), 73, "exists with other settings")
    assert (tmp_path / "m.h5").read_bytes() == before
    good("merge", folder / "cams", "-o", tmp_path / "m.h5", "--force", "--allow-errors", "1")
    assert run(*command[:4]).code == 73
