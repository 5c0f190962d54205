"""Class ids of tags, rows about one image, and finding files."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.data.folders import FileFinder, below, common_root, existing_folder
from stages.data.records import Record, class_ids, collect, counted, supervision_of
from stages.data.tables import Row
from stages.errors import BadData, MissingInput

CLASSES = ("background", "cat", "Dog", "horse")


def test_class_ids_are_sorted_and_without_background():
    assert class_ids(["horse", "cat", "background", "cat"], CLASSES, "t:1") == (1, 3)
    assert class_ids([], CLASSES, "t:1") == ()


def test_an_unknown_tag_names_the_nearest_class():
    with pytest.raises(BadData, match=r"^t:4: tag 'dgo' is no class; the nearest is 'Dog'$"):
        class_ids(["dgo"], CLASSES, "t:4")
    with pytest.raises(BadData, match="classes are cat, Dog, horse"):
        class_ids(["xylophone"], CLASSES, "t:4")
    with pytest.raises(BadData, match="tag '' is no class"):
        class_ids([""], ("", "cat"), "t:4")


def test_rows_that_repeat_an_id_add_captions_only():
    rows = [Row(2, {"id": "a", "caption": "one"}), Row(3, {"id": "a", "caption": "two"}), Row(4, {"id": "b"})]
    known = collect(rows, ["a", "a", "b"], CLASSES, Path("t"))
    assert known["a"].captions == ("one", "two") and known["a"].tags is None and known["b"].captions == ()
    for second in ({"tags": "cat"}, {"tags": "horse", "caption": "x"}):
        repeated = [Row(2, {"tags": "cat"}), Row(5, second)]
        with pytest.raises(BadData, match="'a' stands in lines 2 and 5"):
            collect(repeated, ["a", "a"], CLASSES, Path("t"))


def test_an_empty_cell_is_known_to_have_none():
    known = collect([Row(2, {"tags": ""}), Row(3, {})], ["a", "b"], CLASSES, Path("t"))
    assert known["a"].tags == () and known["b"].tags is None


def test_what_supervises():
    assert supervision_of([Record("a", "a.jpg")]) == "none"
    assert supervision_of([Record("a", "a.jpg", captions=("x",))]) == "captions"
    assert supervision_of([Record("a", "a.jpg", ())]) == "tags"
    assert supervision_of([Record("a", "a.jpg", (1,))], from_masks=True) == "masks"
    assert counted(0, 3, "x") == () and counted(2, 3, "have x") == ("2 of 3 images have x",)


def test_files_are_found_by_id(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.JPG", "b.png", "b.jpg", "c.txt", "d.e.jpeg", "sub/x.Png"):
        (tmp_path / "in" / name).touch()
    finder = FileFinder(tmp_path / "in", tmp_path)
    assert finder.find("a") == "in/a.JPG"
    assert finder.find("b") == "in/b.jpg" and finder.find("b.png") == "in/b.png"
    assert finder.find("a.png") == "in/a.JPG"
    assert finder.find("c") is None and finder.find("d.e") == "in/d.e.jpeg"
    assert finder.find("sub/x") == "in/sub/x.Png" and finder.find("none/x") is None
    assert finder.names() == ["a", "b", "d.e"]


def test_paths_stay_below_the_root(tmp_path):
    assert below("./a/../b.jpg", tmp_path, "t:1") == "b.jpg"
    assert below(str(tmp_path / "c" / "d.jpg"), tmp_path, "t:1") == "c/d.jpg"
    for path in ("../x.jpg", "a/../../x.jpg", "/etc/passwd", "", "."):
        with pytest.raises(BadData, match="leads out"):
            below(path, tmp_path, "t:1")


def test_roots_and_missing_folders(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert common_root(tmp_path / "a", tmp_path / "a" / "b") == tmp_path / "a"
    assert common_root(tmp_path / "a", tmp_path / "c") == tmp_path
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert common_root(Path("../../c"), Path()) == tmp_path
    with pytest.raises(MissingInput, match="no such folder"):
        existing_folder(tmp_path / "none")
