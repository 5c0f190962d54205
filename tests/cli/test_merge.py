"""`wsss merge` writes the parts of a run to fewer shards, which every command reads like the run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cli.runner import SMALL, check_error, copy_dataset, index_table, run, run_ok
from shards.samples import items_equal
from stages.shards import KINDS, Run, Shard, ShardContents, write_shard


@pytest.fixture(scope="module")
def folder(tiny_dataset, tiny_net, tmp_path_factory) -> Path:
    """Return a folder with runs in parts: CAMs, masks and features of one index, and CAMs of an index in parts."""
    folder = tmp_path_factory.mktemp("merge")
    root = copy_dataset(tiny_dataset, folder / "set")
    (root / "JPEGImages" / "picture_004.jpg").write_bytes(b"")
    assert index_table(root, folder / "i.h5").code == 65
    assert index_table(root, folder / "index", "--shard-size", "5").code == 65
    small = ("--net", tiny_net, *SMALL, "--allow-errors", "1", "-j", "1")
    run_ok("cams", "cnn", folder / "i.h5", *small, "--shard-size", "3", "-o", folder / "cams")
    run_ok("pseudo", folder / "cams", "-o", folder / "masks", "--allow-errors", "1", "-j", "1")
    run_ok("features", folder / "i.h5", "--net", tiny_net, "--shard-size", "3", "-o", folder / "features",
         "--allow-errors", "1", "--device", "cpu", "-j", "1")
    run_ok("cams", "cnn", folder / "index", *small, "-o", folder / "cams-of-parts")
    return folder


def merge(folder: Path, name: str, *more: object) -> Path:
    output = folder / f"{name}-merged.h5"
    run_ok("merge", folder / name, "-o", output, "--allow-errors", "1", *more)
    return output


@pytest.mark.parametrize("name", ["index", "cams", "masks", "features"])
def test_a_merged_shard_has_the_contents_of_the_parts(folder, name):
    parts, merged = Run([folder / name]), Run([merge(folder, name)])
    assert (merged.kind, merged.classes, tuple(merged.ids)) == (parts.kind, parts.classes, tuple(parts.ids))
    assert merged.first.errors == {key: error for shard in parts.shards for key, error in shard.errors.items()}
    assert len(merged.first.errors) == 1
    if name == "features":
        for array in ("features", "labels"):
            np.testing.assert_array_equal(merged.first.read_root(array),
                                          np.concatenate([shard.read_root(array) for shard in parts.shards]))
    else:
        assert all(items_equal(merged.item(item_id), parts.item(item_id)) for item_id in parts.ids)
    stages = [entry["stage"] for entry in parts.first.provenance]
    assert [entry["stage"] for entry in merged.first.provenance] == [*stages, "merge"]
    assert merged.first.provenance[-1]["inputs"] == {parts.kind: parts.digest}
    assert [line.split("\t")[1] for line in run_ok("check", merged.first.path)] == ["good"]


def test_the_provenance_combines_the_inputs_of_all_parts(folder):
    inputs = Shard(merge(folder, "masks")).provenance[-2]["inputs"]
    assert inputs == {"cams": Run([folder / "cams"]).digest}


def test_merges_consecutive_parts_in_order(folder, tmp_path):
    printed = run_ok("merge", folder / "cams", "-o", tmp_path / "two", "--parts", "2", "--allow-errors", "1")
    assert [Path(path).name for path in printed] == ["cams-00000-of-00002.h5", "cams-00001-of-00002.h5"]
    assert tuple(Run([tmp_path / "two"]).ids) == tuple(Run([folder / "cams"]).ids)
    assert [len(Shard(path).ids) for path in printed] == [6, 6]


def test_commands_read_the_merged_run(folder, tmp_path):
    cams, masks = merge(folder, "cams"), merge(folder, "masks")
    run_ok("pseudo", cams, "-o", tmp_path / "masks", "--allow-errors", "1")
    again, before = Run([tmp_path / "masks"]), Run([folder / "masks"])
    assert all(items_equal(again.item(item_id), before.item(item_id)) for item_id in before.ids)
    for merged_path, parts_path in ((masks, folder / "masks"), (cams, folder / "cams")):
        merged, parts = (json.loads("\n".join(run_ok("eval", path, "--json"))) for path in (merged_path, parts_path))
        assert merged == parts
    assert run("export", "png", masks, "-o", tmp_path / "png").code == 65  # because of the failed image
    assert len(list((tmp_path / "png").glob("*.png"))) == 11
    run_ok("show", cams, masks, "--count", "3", "-o", tmp_path / "look.png")


def test_parts_of_several_indexes_need_the_merged_index(folder, tmp_path):
    line = check_error(run("merge", folder / "cams-of-parts", "-o", tmp_path / "c.h5"), 2, "3 indexes", "--index")
    assert "wsss merge INDEX" in line
    index = merge(folder, "index")
    run_ok("merge", folder / "cams-of-parts", "-o", tmp_path / "c.h5", "--index", index, "--allow-errors", "1")
    assert Shard(tmp_path / "c.h5").index_digest == Shard(index).digest
    run_ok("eval", tmp_path / "c.h5")
    # Another index of the same images will do, one of fewer images will not.
    run_ok("merge", folder / "cams-of-parts", "-o", tmp_path / "d.h5", "--index", folder / "i.h5", "--allow-errors",
           "1")
    run_ok("index", "split", folder / "i.h5", "--single", "-o", tmp_path / "single.h5")
    check_error(run("merge", folder / "cams-of-parts", "-o", tmp_path / "e.h5", "--index", tmp_path / "single.h5"), 65,
                "other images than", "single.h5")


def test_a_missing_part_is_reported_and_nothing_is_written(folder, tmp_path):
    shards = sorted((folder / "masks").glob("*.h5"))
    check_error(run("merge", *shards[:1], *shards[3:], "-o", tmp_path / "m.h5"), 66, "lacks part 1, 2 of 4")
    assert not list(tmp_path.iterdir())


def test_rejects_inputs_and_options_that_cannot_be_merged(folder, tiny_index, tmp_path):
    out = ("-o", tmp_path / "m.h5")
    first = next((folder / "masks").glob("*.h5"))
    check_error(run("merge", first, first, *out), 65, "twice")
    check_error(run("merge", folder / "masks", *out, "--parts", "5"), 2, "--parts 5", "4 parts")
    check_error(run("merge", folder / "masks", *out, "--parts", "2"), 2, "is one file")
    check_error(run("merge", folder / "masks", "-o", folder / "masks"), 2, "folder of the run itself")
    check_error(run("merge", *out), 66, "no input")
    run_ok("cooc", tiny_index, "-o", tmp_path / "cooc.h5")
    check_error(run("merge", tmp_path / "cooc.h5", *out), 65, "holds cooc, not index or features or cams or masks")


def test_merges_parts_from_different_machines(folder, tmp_path):
    (tmp_path / "cams").mkdir()
    for path in sorted((folder / "cams").glob("*.h5")):
        shard = Shard(path)
        entry = shard.provenance[-1]
        device = "cuda" if shard.part == 1 else entry["config"]["device"]
        provenance = [*shard.provenance[:-1], {**entry, "config": {**entry["config"], "device": device}}]
        write_shard(tmp_path / "cams" / path.name, ShardContents(
            "cams", shard.classes, list(shard.items()), shard.part, shard.parts, provenance=provenance,
            index_digest=shard.index_digest, index_path=os.path.relpath(folder / "i.h5", tmp_path / "cams"),
            root_attrs={name: shard.attribute(name) for name in KINDS["cams"].root_attrs}))
    run_ok("check", tmp_path / "cams")
    run_ok("merge", tmp_path / "cams", "-o", tmp_path / "m.h5", "--allow-errors", "1")


def test_rejects_parts_with_different_settings(folder, tmp_path):
    run_ok("pseudo", folder / "cams", "--background", "power:3", "-o", tmp_path / "other", "--allow-errors", "1",
         "-j", "1")
    shards = sorted((folder / "masks").glob("*.h5"))
    other = sorted((tmp_path / "other").glob("*.h5"))
    check_error(run("merge", *shards[:3], other[3], "-o", tmp_path / "m.h5"), 65, str(other[3]),
                "made with different settings", "background")


def test_merging_again_is_up_to_date_and_replaces_only_with_force(folder, tmp_path):
    command = ("merge", folder / "masks", "-o", tmp_path / "m.h5", "--allow-errors", "1")
    dry = run(*command, "-n")
    assert (dry.code, dry.out) == (0, "") and "Would merge 4 shards into" in dry.err and not list(tmp_path.iterdir())
    run_ok(*command)
    before = (tmp_path / "m.h5").read_bytes()
    run_ok(*command)
    check_error(run("merge", folder / "cams", "-o", tmp_path / "m.h5"), 73, "exists with different settings")
    assert (tmp_path / "m.h5").read_bytes() == before
    run_ok("merge", folder / "cams", "-o", tmp_path / "m.h5", "--force", "--allow-errors", "1")
    assert run(*command[:4]).code == 73
