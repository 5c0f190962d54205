"""Links, archives and names that would lead out of their folder; JSON and journals from other programs."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from cli.runner import check_error, copy_dataset, run, run_ok
from stages.shards import Item, Shard, ShardContents, unfinished_path, write_shard
from stages.shards.journal import encode_frame


@pytest.fixture
def root(tiny_dataset, tmp_path) -> Path:
    """Return a copy of the tiny set."""
    return copy_dataset(tiny_dataset, tmp_path / "set")


def write_empty_cams(folder: Path, index: Path, ids: tuple[str, ...] | None = None) -> Path:
    """Write CAMs without rows, which `pseudo` accepts, for `ids` (None: all images of the index)."""
    shard = Shard(index)
    items = [Item(item_id, {"class_ids": np.zeros(0, np.uint16), "cam": np.zeros((0, 1, 1), np.float16)},
                  {"height": 48, "width": 64, "covers": np.array([48, 64])}) for item_id in ids or shard.ids]
    write_shard(folder / "cams.h5", ShardContents("cams", shard.classes, items, provenance=shard.provenance,
                                                  index_digest=shard.digest, index_path=str(index),
                                                  root_attrs={"background": "none"}))
    return folder / "cams.h5"


def test_link_loops_and_broken_links_are_missing_input(tmp_path):
    (tmp_path / "a.h5").symlink_to(tmp_path / "b.h5")
    (tmp_path / "b.h5").symlink_to(tmp_path / "a.h5")
    (tmp_path / "c.h5").symlink_to(tmp_path / "nowhere.h5")
    for name in ("a.h5", "c.h5"):
        check_error(run("pseudo", tmp_path / name, "-o", tmp_path / "out"), 66, name)
        check_error(run("check", tmp_path / name), 66, name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_shard_without_read_permission(tiny_index, tmp_path):
    path = write_empty_cams(tmp_path, tiny_index)
    path.chmod(0)
    check_error(run("pseudo", path, "-o", tmp_path / "out"), 65, str(path))


@pytest.mark.parametrize("path", ["JPEGImages/../../secret/a.jpg", "../secret/a.jpg", "/secret/a.jpg"])
def test_a_path_out_of_the_root_is_not_followed(root, tmp_path, path):
    """An index from elsewhere has an image path that climbs out of its folder."""
    (tmp_path / "secret").mkdir()
    (root / "JPEGImages" / "picture_000.jpg").rename(tmp_path / "secret" / "a.jpg")
    item = Item("a", {"labels": np.array([1], np.uint16)}, {"path": path, "height": 48, "width": 64})
    provenance = ({"stage": "index", "config": {}, "inputs": {}},)
    write_shard(tmp_path / "i.h5", ShardContents("index", ("background", "cat", "dog"), [item],
                                                 root_attrs={"root": "set"}, provenance=provenance))
    done = run("show", tmp_path / "i.h5", "--ids", "a", "-o", tmp_path / "look.png")
    check_error(done, 65, "outside the folder of the images")
    assert not (tmp_path / "look.png").exists()


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil"])
def test_exports_stay_in_their_folder(tiny_index, tmp_path, name):
    path = write_empty_cams(tmp_path, tiny_index, (name, "good"))
    masks = Shard(path)
    write_shard(tmp_path / "masks.h5", ShardContents(
        "masks", masks.classes, [Item(item_id, {"mask": np.zeros((4, 4), np.uint8)}) for item_id in (name, "good")],
        provenance=masks.provenance, index_digest=masks.index_digest, index_path=str(tiny_index)))
    before = set(tmp_path.rglob("*"))
    for words in (("png",), ("voc",), ("voc", "--submission")):
        check_error(run("export", *words, tmp_path / "masks.h5", "-o", tmp_path / "deep" / "out"), 2, name)
    assert set(tmp_path.rglob("*")) == before
    assert not Path("/tmp/evil.png").exists()


def write_archive(path: Path, *names: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, 0 if kind != tarfile.REGTYPE else 1, "/etc/passwd"
            tar.addfile(member, io.BytesIO(b"x") if kind == tarfile.REGTYPE else None)
    return path


@pytest.mark.parametrize("name", ["../../evil.jpg", "/tmp/evil.jpg", "a/../../evil.jpg"])
def test_archive_members_that_lead_out_are_rejected(tmp_path, name):
    path = write_archive(tmp_path / "a.tar", name, "good.jpg")
    check_error(run("index", "webdataset", path, "-o", tmp_path / "i.h5"), 65, "a.tar")
    assert [file.name for file in tmp_path.iterdir()] == ["a.tar"]
    assert not Path("/tmp/evil.jpg").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_an_archive_are_not_images(tmp_path, kind):
    path = write_archive(tmp_path / "a.tar", "a.jpg", kind=kind)
    check_error(run("index", "webdataset", path, "-o", tmp_path / "i.h5"), 65, "a.tar", "'a.jpg'", "not an image")


def test_invalid_and_truncated_archives(tmp_path):
    whole = write_archive(tmp_path / "a.tar", *(f"{number}.jpg" for number in range(40))).read_bytes()
    for content in (b"", b"no archive", whole[:700], whole[:5000]):
        (tmp_path / "a.tar").write_bytes(content)
        done = run("index", "webdataset", tmp_path / "a.tar", "-o", tmp_path / "i.h5")
        assert done.code in (65, 66), done.err
        assert "internal error" not in done.err and "Traceback" not in done.err


IMAGES = [{"id": 1, "file_name": "picture_000.jpg"}]


@pytest.mark.parametrize(("content", "message"), [
    ('{"images": ' + "[" * 100_000, "not valid JSON"),
    (json.dumps({"images": [{"id": [1], "file_name": "a.jpg"}]}), "has [1] as id"),
    (json.dumps({"images": IMAGES, "annotations": {"image_id": 1}}), '"annotations" is not a list'),
    (json.dumps({"images": IMAGES, "annotations": [{"image_id": {}, "category_id": 1}]}), "as image_id"),
    (json.dumps({"images": IMAGES, "categories": [{"id": None, "name": "cat"}]}), "has None as id"),
], ids=["deep", "a list as id", "an object of annotations", "an object as image", "no id"])
def test_json_of_another_structure_than_coco(root, tmp_path, content, message):
    (root / "c.json").write_text(content)
    check_error(run("index", "coco", root / "c.json", "--images", root / "JPEGImages", "-o", tmp_path / "i.h5"), 65,
            "c.json", message)
    assert not (tmp_path / "i.h5").exists()


def test_category_ids_of_numbers_and_texts_are_sorted(root, tmp_path):
    (root / "c.json").write_text(json.dumps({"images": IMAGES, "categories": [
        {"id": "b", "name": "dog"}, {"id": 3, "name": "cat"}]}))
    run_ok("index", "coco", root / "c.json", "--images", root / "JPEGImages", "-o", tmp_path / "i.h5")
    assert Shard(tmp_path / "i.h5").classes == ("background", "cat", "dog")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"id": ' + "[" * 100_000], ids=["a list", "an object"])
def test_deeply_nested_json_lines(root, tmp_path, text):
    (root / "t.jsonl").write_text(text)
    check_error(run("index", "table", root / "t.jsonl", "--images", root / "JPEGImages", "-o", tmp_path / "i.h5"), 65,
            "t.jsonl:1", "not valid JSON")


def test_deeply_nested_backgrounds_and_recipes(tiny_index, tmp_path):
    path = write_empty_cams(tmp_path, tiny_index)
    huge = '{"background": {"rule": "constant", "value": 1' + "0" * 400 + "}}"
    for number, content in enumerate(("[" * 100_000, huge)):
        (tmp_path / f"{number}.json").write_text(content)
        background = f"from:{tmp_path / f'{number}.json'}"
        check_error(run("pseudo", path, "--background", background, "-o", tmp_path / "out"), 65, f"{number}.json",
                    "wsss eval")
    (tmp_path / "r.toml").write_text("a = " + "[" * 100_000)
    done = run("pseudo", path, "--config", tmp_path / "r.toml", "-o", tmp_path / "out")
    check_error(done, 65, "r.toml", "is not valid TOML")


@pytest.mark.parametrize("payloads", [[b"{"], [b"[" * 100_000], [b"{}", b"{}\n"], [b"{}", b"no record"]],
                         ids=["cut", "deep", "no position", "no line"])
def test_a_journal_of_another_program_is_reported_and_not_removed(tiny_index, tmp_path, payloads):
    path, output = write_empty_cams(tmp_path, tiny_index), tmp_path / "masks.h5"
    data = b"".join(map(encode_frame, payloads))
    unfinished_path(output).write_bytes(data)
    check_error(run("pseudo", path, "-o", output), 65, "masks.h5.part", "is not a journal of wsss", "Remove it")
    assert unfinished_path(output).read_bytes() == data
    run_ok("pseudo", path, "-o", output, "--force")
    assert not unfinished_path(output).exists()


def test_a_file_that_is_no_journal_is_replaced(tiny_index, tmp_path):
    path, output = write_empty_cams(tmp_path, tiny_index), tmp_path / "masks.h5"
    unfinished_path(output).write_bytes(b"no journal at all")
    run_ok("pseudo", path, "-o", output)
    assert len(Shard(output).ids) == 12


def test_a_shard_named_as_another_part(tiny_index, tmp_path):
    path = write_empty_cams(tmp_path, tiny_index)
    (tmp_path / "run").mkdir()
    path.rename(tmp_path / "run" / "cams-00001-of-00003.h5")
    check_error(run("pseudo", tmp_path / "run", "-o", tmp_path / "out"), 65, "cams-00001-of-00003.h5",
            "is part 0 of 1, but its name says part 1 of 3", "Rename it to cams-00000-of-00001.h5")


def test_two_spellings_of_one_name_are_two_images(tiny_index, tmp_path):
    path = write_empty_cams(tmp_path, tiny_index, ("caf\u00e9", "cafe\u0301"))
    run_ok("pseudo", path, "-o", tmp_path / "masks.h5")
    assert Shard(tmp_path / "masks.h5").ids == ("caf\u00e9", "cafe\u0301")
