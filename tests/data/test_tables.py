"""Lists and tables as people write them, and one-line errors for those that can't be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.data.class_names import read_class_names
from stages.data.tables import check_id, parse_ids, read_id_lines, read_table
from stages.errors import BadData, MissingInput


@pytest.fixture
def write(tmp_path: Path):
    def to_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return to_file


def _read_list(path: Path) -> list[str]:
    return parse_ids(read_id_lines(path), path)


def get_error(error_type: type, call, *args) -> str:
    with pytest.raises(error_type) as error:
        call(*args)
    return str(error.value)


def test_lists_are_read_without_bom_cr_blanks_and_empty_lines(write):
    path = write("a.txt", "\ufeff2007_1\r\n\r\n my photo \r\ncafé/2\n\n")
    assert _read_list(path) == ["2007_1", "my photo", "café/2"]


def test_second_column_of_voc_lists(write):
    assert _read_list(write("a.txt", "2007_1  1\n2007_2 -1\n2007_3  0\n")) == ["2007_1", "2007_2", "2007_3"]
    assert _read_list(write("b.txt", "photo 1\nphoto 2\n")) == ["photo 1", "photo 2"]


def test_malformed_lists_are_rejected(write, tmp_path):
    line = get_error(BadData, _read_list, write("a.txt", "x\ny\n\nx\n"))
    assert "'x' is repeated in lines 1 and 4" in line
    assert "the list is empty" in get_error(MissingInput, _read_list, write("b.txt", "\ufeff\n \n"))
    assert "no such file" in get_error(MissingInput, _read_list, tmp_path / "none.txt")
    assert "folder" in get_error(MissingInput, _read_list, tmp_path)
    assert "byte 1 is not UTF-8" in get_error(BadData, _read_list, write("c.txt", b"a\xff\n"))
    assert "d.txt:2" in get_error(BadData, _read_list, write("d.txt", "a\n../b\n"))


def test_class_lists_without_classes_are_rejected(write):
    for text in ("\n \n", "background\n", "void\n\n"):
        line = get_error(MissingInput, read_class_names, write("classes.txt", text))
        assert "classes.txt: the file has no class names" in line


@pytest.mark.parametrize(
    "name",
    ["", "a\tb", "a\0b", "a\nb", "x" * 201, "..", ".", "/etc/x", "a/../b", "a//b", "a/", "\udc80"],
)
def test_invalid_ids(name):
    with pytest.raises(BadData):
        check_id(name, "list:1")


@pytest.mark.parametrize("name", ["a", "a b", "日本", "a/b", "-x", "50%", "..a", "x" * 200])
def test_valid_ids(name):
    assert check_id(name, "list:1") == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "\ufeffID,Labels\r\na b,x;y\r\n\r\nc,\r\n"),
        ("a.csv", "id;labels\na b;\"x;y\"\nc;\n"),
        ("a.tsv", "id\tlabels\na b\tx;y\nc\t\n"),
        ("a.txt", "id\tlabels\na b\tx;y\nc\t\n"),
        ("a.jsonl", '{"id": "a b", "labels": "x;y"}\n\n{"ID": "c", "labels": ""}\n'),
        ("a", '{"id": "a b", "labels": "x;y"}\n{"id": "c", "labels": ""}'),
    ],
)
def test_formats_of_tables(write, name, text):
    table = read_table(write(name, text))
    rows = table.rows
    assert [(row.fields["id"], row.fields["tags"]) for row in rows] == [("a b", "x;y"), ("c", "")]
    assert table.has_tags and rows[0].line == (1 if "json" in name or name == "a" else 2)


def test_jsonl_values(write):
    values = {"id": 7, "tags": ["x", "y"], "caption": None}
    row = read_table(write("a.jsonl", json.dumps(values))).rows[0]
    assert row.fields == {"id": "7", "tags": ["x", "y"]}
    assert row.list_captions("a:1") == ()


def test_captions_with_commas_and_line_breaks(write):
    rows = read_table(write("a.csv", 'id,caption\n1,"a dog, and\u2028a ""cat"""\n2,"two\nlines"\n3,x\n')).rows
    assert [row.fields["caption"] for row in rows] == ['a dog, and\u2028a "cat"', "two\nlines", "x"]
    assert rows[2].line == 5


def test_malformed_tables_are_rejected(write):
    line = get_error(BadData, read_table, write("a.csv", "name,x\n1,2\n"))
    assert "there is no column id or path, only name, x" in line
    line = get_error(BadData, read_table, write("b.csv", "id,tags\na,x\nb,x,y\n"))
    assert "b.csv:3" in line and "3 cells" in line
    assert "has no rows" in get_error(MissingInput, read_table, write("c.csv", "id,tags\n"))
    assert "has no rows" in get_error(MissingInput, read_table, write("d.csv", ""))
    assert "d.jsonl:2" in get_error(BadData, read_table, write("d.jsonl", '{"id": 1}\n{"id": \n'))
    assert "id or path" in get_error(BadData, read_table, write("e.jsonl", '{"name": 1}'))
    assert "e2.jsonl:1" in get_error(BadData, read_table, write("e2.jsonl", '{"id": null}\n{"path": "b.jpg"}\n'))
    assert "'id'" in get_error(BadData, read_table, write("e3.jsonl", '{"id": 1, "ID": 2}'))
    assert "'id'" in get_error(BadData, read_table, write("f.csv", "id,ID\n1,2\n"))
    assert "f2.csv" in get_error(BadData, read_table, write("f2.csv", 'id,tags\na,"x"y\n'))


def test_class_names(write):
    assert read_class_names(write("a", "\ufeffcow\r\n horse \r\n\r\n")) == (("background", "cow", "horse"), True)
    assert read_class_names(write("b", "_background_\ncow\n")) == (("background", "cow"), True)
    assert read_class_names(write("c", "void\ncow\n")) == (("", "cow"), False)
    assert "lines 1 and 3" in get_error(BadData, read_class_names, write("d", "cow\nhorse\ncow\n"))
    assert "no class names" in get_error(MissingInput, read_class_names, write("e", "background\n"))
