"""Class ids of tags, table entries of images, and finding files."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.data.folders import FileFinder, find_common_root, require_folder, resolve_inside_root
from stages.data.records import ImageRecord, describe_count, infer_supervision, resolve_class_ids
from stages.data.table_entries import collect_table_entries
from stages.data.tables import Table, TableRow
from stages.data.tag_parsing import TagParser
from stages.errors import BadData, MissingInput

CLASSES = ("background", "cat", "Dog", "horse")


def test_class_ids_are_sorted_and_without_background():
    assert resolve_class_ids(["horse", "cat", "background", "cat"], CLASSES, "t:1") == (1, 3)
    assert resolve_class_ids([], CLASSES, "t:1") == ()


def test_an_unknown_tag_suggests_the_most_similar_class():
    with pytest.raises(BadData, match=r"^t:4: the tag 'dgo' is not a class\W+Did you mean 'Dog'\?$"):
        resolve_class_ids(["dgo"], CLASSES, "t:4")
    with pytest.raises(BadData, match=r"Use one of the classes \(cat, Dog, horse\)"):
        resolve_class_ids(["xylophone"], CLASSES, "t:4")
    with pytest.raises(BadData, match="the tag '' is not a class"):
        resolve_class_ids([""], ("", "cat"), "t:4")


def collect(ids: list[str], *rows: dict[str, object]):
    """Return the entries and notes of a table with these rows, which are in the lines 2, 3, ..."""
    table = Table(Path("t"), tuple(TableRow(line, fields) for line, fields in enumerate(rows, 2)), ())
    return collect_table_entries(table, ids, TagParser(CLASSES))


def test_rows_that_repeat_an_id_add_captions():
    entries, notes = collect(["a", "a", "b"], {"caption": "one"}, {"caption": "two"}, {})
    assert entries["a"].captions == ("one", "two") and entries["a"].tags is None and entries["b"].captions == ()
    assert notes == ()
    with pytest.raises(BadData, match="'a' is repeated in lines 2 and 3"):
        collect(["a", "a"], {"tags": "cat"}, {"tags": "horse", "caption": "x"})


def test_rows_with_one_tag_each_are_united():
    entries, notes = collect(["a", "b", "a", "a"], {"tags": "cat"}, {"tags": "dog"}, {"tags": "dog"}, {"tags": "cat"})
    assert entries["a"].tags == ("cat", "Dog") and entries["b"].tags == ("Dog",)
    assert "1 row added a tag to an image that an earlier row names, for example 'a' in lines 2 and 4." in notes
    with pytest.raises(BadData, match="'a' is repeated in lines 2 and 3 with other tags"):
        collect(["a", "a"], {"tags": "cat;dog"}, {"tags": "horse"})
    with pytest.raises(BadData, match="'a' is repeated in lines 2 and 3 with other tags"):
        collect(["a", "a"], {"tags": ""}, {"tags": "horse"})


def test_identical_rows_count_once_and_other_paths_are_an_error():
    entries, notes = collect(["a", "a"], {"tags": "cat", "path": "a.jpg"}, {"tags": "cat", "path": "./a.jpg"})
    assert entries["a"].tags == ("cat",)
    assert notes == ("1 row repeated an earlier row, for example 'a' in lines 2 and 3.",)
    with pytest.raises(BadData, match=r"two paths, 'a\.jpg' in line 2 and 'a\.png' in line 3"):
        collect(["a", "a"], {"tags": "cat", "path": "a.jpg"}, {"tags": "cat", "path": "a.png"})


def test_an_empty_cell_means_no_tags_and_a_null_word_that_they_are_unknown():
    entries, _ = collect(["a", "b", "c", "d"], {"tags": ""}, {}, {"tags": "nan"}, {"tags": "[]"})
    assert [entries[name].tags for name in "abcd"] == [(), None, None, ()]


def test_supervision_and_counts():
    assert infer_supervision([ImageRecord("a", "a.jpg")]) == "none"
    assert infer_supervision([ImageRecord("a", "a.jpg", captions=("x",))]) == "captions"
    assert infer_supervision([ImageRecord("a", "a.jpg", ())]) == "tags"
    assert infer_supervision([ImageRecord("a", "a.jpg", (1,))], from_masks=True) == "masks"
    assert describe_count(0, 3, "x") == () and describe_count(2, 3, "have x") == ("2 of 3 images have x.",)


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
    assert finder.list_ids() == ["a", "b", "d.e"]


def test_paths_stay_below_the_root(tmp_path):
    assert resolve_inside_root("./a/../b.jpg", tmp_path, "t:1") == "b.jpg"
    assert resolve_inside_root(str(tmp_path / "c" / "d.jpg"), tmp_path, "t:1") == "c/d.jpg"
    for path in ("../x.jpg", "a/../../x.jpg", "/etc/passwd", "", "."):
        with pytest.raises(BadData, match="leads out"):
            resolve_inside_root(path, tmp_path, "t:1")


def test_roots_and_missing_folders(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert find_common_root(tmp_path / "a", tmp_path / "a" / "b") == tmp_path / "a"
    assert find_common_root(tmp_path / "a", tmp_path / "c") == tmp_path
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert find_common_root(Path("../../c"), Path()) == tmp_path
    with pytest.raises(MissingInput, match="no such folder"):
        require_folder(tmp_path / "none")
