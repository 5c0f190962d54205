"""Tables of tags as people and programs write them, through `wsss index table`."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from cli.runner import check_error, copy_dataset, run
from conftest import Result
from stages.data.image_source import ImageSource
from stages.shards import Shard

UNKNOWN = None
NAMES = "dog\ncat\npotted plant\nsalt, pepper\ncar/truck\nCaf\u00e9\n"


class Indexer:
    """Writes a table and runs `wsss index table` on it, without images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, content: str | bytes, *options: object, name: str = "tags.csv", names: str = "") -> Result:
        (self.folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if names:
            (self.folder / "names.txt").write_text(names, encoding="utf-8")
            options = (*options, "--class-names", self.folder / "names.txt")
        return run("index", "table", self.folder / name, "--tags-only", "--force", "-o", self.folder / "i.h5", *options)

    def read(self, content: str | bytes, *options: object, **files: str) -> tuple[dict[str, list[str] | None], str]:
        """Return (the names of the classes of every image, stderr) of a table that must be accepted."""
        done = self.run(content, *options, **files)
        assert done.code == 0, done.err
        index = ImageSource(Shard(self.folder / "i.h5"))
        labels = {image_id: index.read_labels(image_id) for image_id in index.index.ids}
        return {image_id: None if ids is None else [index.classes[class_id] for class_id in ids]
                for image_id, ids in labels.items()}, done.err

    def read_cell(self, cell: str, names: str = "", tags: str = "dog") -> tuple[list[str] | None, str]:
        """Return (the classes of an image with the cell, stderr); another image has the class `tags`."""
        quoted = '"' + cell.replace('"', '""') + '"'
        labels, message = self.read(f"id,tags\na,{quoted}\nz,{tags}\n", names=names)
        return labels["a"], message


@pytest.fixture
def table(tmp_path: Path) -> Indexer:
    return Indexer(tmp_path)


TWO = ["cat", "dog"]
CELLS = [
    ("dog;cat", TWO), ("dog,cat", TWO), ("dog|cat", TWO), ("dog/cat", TWO), ("dog；cat", TWO), ("dog，cat", TWO),
    ("dog、cat", TWO), ("dog｜cat", TWO), ("dog\ncat", TWO), (" dog ; cat; ", TWO), (";dog;;cat", TWO),
    ('["dog", "cat"]', TWO), ("['dog', 'cat']", TWO), ("['dog' 'cat']", TWO), ("['dog'\n 'cat']", TWO),
    ("[dog, cat]", TWO), ("('dog', 'cat')", TWO), ("{'dog', 'cat'}", TWO), ("frozenset({'dog', 'cat'})", TWO),
    ("array(['dog', 'cat'], dtype='<U3')", TWO), ("[np.str_('dog'), np.str_('cat')]", TWO), ("[u'dog', u'cat']", TWO),
    ('[["dog"], ["cat"]]', TWO), ('{"dog": 0.9, "cat": 0.1}', TWO), ("{'dog': 1, 'cat': True}", TWO),
    ('[{"name": "dog"}, {"name": "cat", "score": 0.2}]', TWO), ("dog:0.9;cat:0.1", TWO), ("dog: 0.9, cat: 1e-3", TWO),
    ("dog:0.9 cat:0.8", TWO), ("'dog', 'cat'", TWO), ('"dog";"cat"', TWO), ("“dog”, “cat”", TWO),
    ("\ufeffdog;\u200bcat", TWO), ("dog\u00a0;\u00a0cat", TWO), ("do\u00adg;cat", TWO),
    ("('dog',)", ["dog"]), ("['dog']", ["dog"]), ("dog,", ["dog"]), ("'dog'", ["dog"]), ("dog;dog", ["dog"]),
    ('{"dog": 0.9, "cat": 0}', ["dog"]), ('{"dog": true, "cat": false}', ["dog"]), ("dog:1;cat:0", ["dog"]),
    ("{'dog': 0.9, 'cat': None}", ["dog"]), ("dog;background", ["dog"]), ("dog;_background_", ["dog"]),
    ('["dog", null]', ["dog"]),
    ("", []), ("[]", []), ("{}", []), ("()", []), ("set()", []), ("background", []), ("void", []),
    *((word, UNKNOWN) for word in ("nan", "NaN", "None", "null", "NA", "n/a", "-", "[null]", "[nan]")),
]


@pytest.mark.parametrize(("cell", "expected"), CELLS, ids=[cell for cell, _ in CELLS])
def test_a_cell_means_the_same_with_and_without_a_class_list(table, cell, expected):
    labels, _ = table.read_cell(cell, tags="dog;cat")
    assert (None if labels is None else sorted(labels)) == expected
    assert Shard(table.folder / "i.h5").classes == ("background", "cat", "dog")
    labels, _ = table.read_cell(cell, names=NAMES)
    assert (None if labels is None else sorted(labels)) == expected


@pytest.mark.parametrize(("cell", "expected"), [
    ("potted plant", ["potted plant"]), ("dog potted plant cat", ["dog", "cat", "potted plant"]),
    ("salt, pepper", ["salt, pepper"]), ("salt,pepper", ["salt, pepper"]),
    ("dog, salt, pepper", ["dog", "salt, pepper"]),
    ("['salt, pepper', 'dog']", ["dog", "salt, pepper"]), ('"salt, pepper"; dog', ["dog", "salt, pepper"]),
    ("car/truck", ["car/truck"]), ("car/truck; dog", ["dog", "car/truck"]), ("cat/dog", ["dog", "cat"]),
    ("dog; cat, potted plant", ["dog", "cat", "potted plant"]), ("[dog cat]", ["dog", "cat"]),
    ("Dog;CAT", ["dog", "cat"]), ("Cafe\u0301", ["Caf\u00e9"]), ("POTTED  plant", ["potted plant"])])
def test_names_of_a_class_list_win(table, cell, expected):
    assert table.read_cell(cell, names=NAMES)[0] == expected


@pytest.mark.parametrize(("cell", "messages"), [
    ("['dog'", ("look like a list", "']' is missing")), ("dog']", ("look like a list", "bracket is missing")),
    ("['dog', 'cat'", ("look like a list",)), ("{'dog': 0.9", ("'}' is missing",)),
    ("['dog', ..., 'cat']", ("shortened",)), ("['dog' ... 'cat']", ("look like a list",)),
    ("{'dog': 0.9, 'cat'}", ("have a value",)), ("dog:-0.5", ("'-0.5' of 'dog'",)), ("[0, 1, 0]", ("zeros and ones",)),
    ("[true, false]", ("true is not a tag",)), ('{"dog": [1]}', ("of 'dog' is not a score",)), ("0 1 0 0", ("zeros",)),
    ("['dog')", ("closes",)), ("[" * 50, ("look like a list",))])
def test_cells_that_are_rejected_with_their_line(table, cell, messages):
    quoted = '"' + cell.replace('"', '""') + '"'
    for names in ("", NAMES):
        check_error(table.run(f"id,tags\nz,dog\na,{quoted}\n", names=names), 65, "tags.csv:3", *messages)


def test_separators_of_several_kinds_need_known_names(table):
    labels, _ = table.read('id,tags\na,dog\nb,cat\nc,"dog; cat, horse"\nd,horse\n')
    assert labels["c"] == ["cat", "dog", "horse"]
    check_error(table.run('id,tags\na,dog\nb,"dog; salt, pepper"\n'), 65, "tags.csv:3", "'salt' is not a class",
                "--class-names")


def test_blanks_separate_only_known_classes(table):
    labels, message = table.read("id,tags\na,potted plant\nb,dog\nc,cat\nd,dog cat\n")
    assert labels == {"a": ["potted plant"], "b": ["dog"], "c": ["cat"], "d": ["cat", "dog"]}
    assert "1 cell was split at blanks, because every word is a class, for example 'dog cat'" in message
    check_error(table.run("id,tags\na,dog bird\n", names=NAMES), 65, "tags.csv:2", "'dog bird' is not a class")


def test_letter_case_and_normalisation_are_noted(table):
    _, message = table.read("id,tags\na,Dog\nb,DOG;cat\nc,dog\n", names=NAMES)
    assert "2 tags differ from their class only in letter case or Unicode form" in message and "'Dog'" in message
    labels, message = table.read("id,tags\na,Dog\nb,dog\nc,dog\nd,cafe\u0301\ne,caf\u00e9\nf,caf\u00e9\n")
    assert labels == {"a": ["dog"], "b": ["dog"], "c": ["dog"], **{name: ["caf\u00e9"] for name in "def"}}
    assert "'dog' and 'Dog' are one class, 'dog'." in message


def test_doubtful_classes_are_noted(table):
    labels, message = table.read("id,tags\na,dog cat\nb,dog bird\nc,traffic light\n")
    assert labels == {"a": ["dog cat"], "b": ["dog bird"], "c": ["traffic light"]}
    assert "'dog bird' and 'dog cat' are one class each. If blanks separate tags" in message
    assert "The tags are numbers, and each is a class, also 0." in table.read("id,label\na,0\nb,12\n")[1]
    assert "one class each" not in table.read("id,tags\na,potted plant\nb,traffic light\n")[1]


def test_scores_and_slashes_are_noted(table):
    assert "2 tags have a score" in table.read_cell("dog:0.9;cat:0")[1]
    assert "1 tag has a score" in table.read_cell('{"dog": 0.9}')[1]
    assert "1 cell was split at '/', for example 'dog/cat'" in table.read_cell("dog/cat")[1]
    assert "a score" not in table.read_cell("dog;cat")[1]


COLUMNS = [
    "id,label\na,dog\n", "ID,Labels\na,dog\n", "\ufeffid , tags \na,dog\n", "image_id,class\na,dog\n",
    "Filename;Tags\na.jpg;dog\n", "image,label\na.png,dog\n", "image,label\na,dog\n", "file_name,category\na.jpg,dog\n",
    "id,Class Name\na,dog\n", "id,keywords,width\na,dog,3\n", ",id,labels\n0,a,dog\n", "id,labels,\na,dog,\n",
    "#id,labels\na,dog\n", "# from my camera\n\nid,labels\na,dog\n", "sep=;\nid;labels\na;dog\n",
    "path,classes\na.jpg,dog\n", "id,category_name,category_id\na,dog,3\n", "id\tlabel\na\tdog\n", "id|label\na|dog\n",
    "id;label\ra;dog\r", "id;label\r\na;dog\r\n", 'id,"label"\n"a", "dog"\n', "id,dog,cat\na,1,0\n",
    "filename, dog, cat\na.jpg, 1, 0\n", "id,dog,cat\na,True,False\n", "id,dog,cat\na,1.0,0.0\n",
    "filename,width,height,class,xmin,ymin\na.jpg,9,9,dog,1,2\na.jpg,9,9,dog,5,6\n"]


@pytest.mark.parametrize("content", COLUMNS)
def test_columns_and_separators_are_found(table, content):
    for name in ("tags.csv", "tags.tsv", "tags.txt"):
        assert table.read(content, name=name)[0] == {"a": ["dog"]}


@pytest.mark.parametrize(("content", "messages"), [
    ("id,labels,tags\na,dog,cat\n", ("'labels' and 'tags' could both", "--tags-column labels")),
    ("id,class,category\na,dog,pet\n", ("'class' and 'category' could both", "--tags-column class")),
    ("id,name,split\na,dog,train\n", ("id, name, split", "--tags-column NAME", "--no-tags")),
    ("name,tags\na,dog\n", ("id or path", "name, tags", "--id-column NAME")),
    ("filename,image,tags\na,b,dog\n", ("'filename' and 'image' could all", "--id-column filename")),
    ("id\na\n", ("only id", "--no-tags")), ("id,tags\na,\nb,nan\n", ("no image of the table has a tag", "--no-tags")),
    ("id,dog,cat\na,1,2\n", ("id, dog, cat", "--tags-column")), ("id,dog,dog\na,1,0\n", ("'dog'",)),
    ("a.jpg,dog\nb.jpg,cat\n", ("a.jpg, dog", "first line")),
    ("id,labels\na,['dog', 'cat']\n", ("tags.csv:2", "3 cells", "quotes"))])
def test_ambiguous_and_missing_columns_are_reported(table, content, messages):
    check_error(table.run(content), 65, "tags.csv", *messages)


def test_options_choose_the_columns(table):
    content = "name,labels,Our Tags\na.jpg,x,dog\nb.jpg,y,cat\n"
    labels, message = table.read(content, "--id-column", "name", "--tags-column", "our tags")
    assert labels == {"a": ["dog"], "b": ["cat"]} and "Read the tags from the column 'Our Tags'." in message
    check_error(table.run(content, "--id-column", "nam"), 65, "'nam'", "name, labels, Our Tags")
    check_error(table.run(content, "--id-column", "name", "--tags-column", "x"), 65, "'x'", "--tags-column")
    labels, _ = table.read("name,labels\na.jpg,dog\n", "--id-column", "name", "--no-tags")
    assert labels == {"a": UNKNOWN}


def test_images_without_tags_need_an_option(table):
    assert table.read("id\na\n", "--no-tags")[0] == {"a": UNKNOWN}
    assert table.read("id,tags\na,\n", "--no-tags", names=NAMES)[0] == {"a": UNKNOWN}
    assert Shard(table.folder / "i.h5").classes[:3] == ("background", "dog", "cat")
    assert table.read("id,caption\na,a dog\n")[0] == {"a": UNKNOWN}


def test_one_row_per_tag_is_united(table):
    labels, message = table.read("id,tag\na,dog\nb,cat\na,cat\na,dog\n")
    assert labels == {"a": ["cat", "dog"], "b": ["cat"]}
    assert "1 row added a tag to an image that an earlier row names, for example 'a' in lines 2 and 4" in message
    assert "1 row repeated an earlier row" in message
    labels, message = table.read("ImageID,LabelName,Confidence\na,dog,1\na,cat,0\nb,cat,0\nb,dog,1\nc,dog,0\n")
    assert labels == {"a": ["dog"], "b": ["dog"], "c": []} and "3 tags have a score" in message
    check_error(table.run("id,tags\na,dog;cat\na,dog\n"), 65, "'a' is repeated in lines 2 and 3")
    check_error(table.run("id,path,tags\na,x/a.jpg,dog\na,y/a.jpg,cat\n"), 65, "two paths", "line 2", "line 3")
    check_error(table.run("image,tags\na.jpg,dog\na.png,dog\n"), 65, "two paths", "a.jpg", "a.png")


def test_one_column_per_class(table):
    labels, message = table.read("filename, dog, potted plant\na.jpg, 1, 1\nb.jpg, 0, 0\n")
    assert labels == {"a": ["dog", "potted plant"], "b": []}
    assert "The columns dog, potted plant hold 0 and 1 and were read as 2 classes." in message
    assert table.read("id,dog,cat\na,1,0\n")[0] == {"a": ["dog"]}
    assert Shard(table.folder / "i.h5").classes == ("background", "cat", "dog")
    check_error(table.run("id,dog,cat\na,1,\n"), 65, "dog holds 0 and 1, but cat has '' in line 2")
    check_error(table.run("id,dog,horse\na,1,1\n", names=NAMES), 65, "tags.csv:2", "'horse' is not a class")


WORDS = "id,labels\na,caf\u00e9;dog\nb,M\u00f6we\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"])
def test_encodings(table, encoding):
    labels, message = table.read(WORDS.encode(encoding))
    assert labels == {"a": ["caf\u00e9", "dog"], "b": ["M\u00f6we"]}
    assert ("was read as Windows-1252" in message) == (encoding in ("cp1252", "latin-1"))


@pytest.mark.parametrize("content", ["id,tags\na,\u72d7\n".encode("gbk"),
                                     "id,tags\na,\u043a\u043e\u0442\n".encode("cp1251"), b"id,tags\n\xff\xfe,cat\n",
                                     b"\xff\xfei\0d"])
def test_other_encodings_are_rejected(table, content):
    check_error(table.run(content), 65, "tags.csv", "UTF", "Save the file as UTF-8")


@pytest.mark.parametrize(("name", "content"), [
    ("t.json", '[{"id": "a", "tags": ["dog", "cat"]}, {"id": "b", "tags": []}, {"id": "c", "tags": null}]'),
    ("t.json", '{"a": ["dog", "cat"], "b": [], "c": null}'), ("t.json", '{"a": "dog;cat", "b": "", "c": "nan"}'),
    ("t.json", '{"a": {"labels": ["dog", "cat"]}, "b": {"labels": []}, "c": {"labels": null}}'),
    ("t.json", '{"a": {"dog": 0.9, "cat": 0.2}, "b": {"dog": 0}, "c": null}'),
    ("t.json", '{"id": "a", "tags": "dog,cat"}\n{"id": "b", "tags": ""}\n{"id": "c"}\n'),
    ("t.jsonl", '{"id": "a", "tags": [{"name": "dog"}, {"name": "cat"}]}\r\n{"id": "b", "tags": []}\r\n{"id": "c"}'),
    ("t.jsonl", '{"file_name": "a.jpg", "label": [["dog"], "cat"]}\n{"file_name": "b", "label": ""}\n'
                '{"file_name": "c.png"}'),
    ("t.csv", '[{"id": "a", "tags": ["dog", "cat"]}, {"id": "b", "tags": []}, {"id": "c"}]')])
def test_json_tables(table, name, content):
    labels, _ = table.read(content, name=name)
    assert labels == {"a": ["cat", "dog"], "b": [], "c": UNKNOWN}


@pytest.mark.parametrize(("name", "content", "messages"), [
    ("t.json", '[\n{"id": "a", "tags": "dog"},\n{"id": "b", "tags": true}]', ("t.json:3", "true is not a tag")),
    ("t.json", '[{"id": "a"},\n{"id": }]', ("t.json:2", "not valid JSON")), ("t.json", "[3]", ("t.json:1", "object")),
    ("t.json", '{"a": "dog",\n"b": ["cat"', ("t.json:2", "not valid JSON")), ("t.json", "id,tags", ("not valid JSON",)),
    ("t.json", '{"images": [], "annotations": []}', ("COCO", "wsss index coco")),
    ("t.json", '{"id": {"0": "a"}, "tags": {"0": "dog"}}', ("stored by columns", 'orient="records"')),
    ("t.json", '{"a": ["dog", "cat"], "a": ["dog"]}', ("'a' is repeated",)),
    ("t.jsonl", '{"id": "a", "tags": "dog"}\n{"id": ["b"], "tags": "dog"}', ("t.jsonl:2", "is not a text or a number")),
    ("t.jsonl", '{"id": "a", "tags": "dog"}\n{"id": "b"', ("t.jsonl:2", "not valid JSON"))])
def test_json_tables_that_are_rejected(table, name, content, messages):
    check_error(table.run(content, name=name), 65, *messages)


def write_xlsx(*sheets: list[list[object]]) -> bytes:
    openpyxl = pytest.importorskip("openpyxl", reason="needs openpyxl (the extra wsss[tables])")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"sheet {number}")
        for row in rows:
            sheet.append(row)
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def test_spreadsheets(table):
    rows = [["id", "labels", None], [None, None, None], ["a", "dog; cat", None], [7, "['dog']", None], ["c", None]]
    labels, message = table.read(write_xlsx([], rows), name="tags.xlsx")
    assert labels == {"a": ["cat", "dog"], "7": ["dog"], "c": []} and "Read the sheet" not in message
    labels, message = table.read(write_xlsx([["id", "dog"], ["a", 1], ["b", False]], rows), name="tags.xlsx")
    assert labels == {"a": ["dog"], "b": []} and "Read the sheet 'sheet 0' of tags.xlsx, the first of 2." in message
    check_error(table.run(write_xlsx([*rows[:2], ["a", "['dog'"]]), name="tags.xlsx"), 65, "tags.xlsx:3", "like a list")
    check_error(table.run(write_xlsx(rows)[:-30], name="tags.xlsx"), 65, "damaged")


def test_parquet(table):
    arrow = pytest.importorskip("pyarrow", reason="needs pyarrow (the extra wsss[tables])")
    parquet = pytest.importorskip("pyarrow.parquet")

    def write(columns: dict[str, object], names: list[str] | None = None) -> bytes:
        content = arrow.table(columns)
        if names:
            features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
            content = content.replace_schema_metadata({"huggingface": json.dumps(features)})
        stream = io.BytesIO()
        parquet.write_table(content, stream)
        return stream.getvalue()

    labels, _ = table.read(write({"file_name": ["a.jpg", "b.jpg", "c.jpg"], "tags": [["dog", "cat"], [], None]}),
                           name="metadata.parquet")
    assert labels == {"a": ["cat", "dog"], "b": [], "c": UNKNOWN}
    labels, _ = table.read(write({"id": [1, 2, 3], "label": [1, 0, -1]}, ["cat", "dog"]), name="t.parquet")
    assert labels == {"1": ["dog"], "2": ["cat"], "3": UNKNOWN}
    check_error(table.run(write({"id": ["a"], "label": [5]}, ["cat", "dog"]), name="t.parquet"), 65, "class number 5")
    check_error(table.run(write({"image": [{"bytes": b"x", "path": "a"}], "label": ["dog"]}), name="t.parquet"), 65,
                "inside the table")
    check_error(table.run(b"PAR1" + b"x" * 20, name="t.parquet"), 65, "Parquet")


@pytest.mark.parametrize("package", ["openpyxl", "pyarrow"])
def test_a_missing_package_is_named(table, package, monkeypatch):
    import sys
    content = write_xlsx([["id"]]) if package == "openpyxl" else b"PAR1"
    monkeypatch.setitem(sys.modules, package, None)
    check_error(table.run(content, name="t.bin"), 69, f"package {package}", "wsss[tables]")


@pytest.mark.parametrize(("content", "messages"), [
    (b"%PDF-1.7 ...", ("a PDF", "CSV")), (b"\xd0\xcf\x11\xe0\xa1\xb1", (".xls",)), (b"\x89HDF\r\n", ("HDF5",)),
    (b"\x1f\x8b\x08", ("gzip", "gunzip")), (b"\x89PNG\r\n", ("an image", "--images")),
    (b"SQLite format 3\0", ("SQLite",)), (pickle.dumps({"a": [1]}), ("pickle", "never runs")),
    (b"\x00\x01\x02\xff", ("UTF-8",))])
def test_files_of_other_kinds_are_named(table, content, messages):
    check_error(table.run(content, name="tags.csv"), 65, "tags.csv", *messages)


def test_archives_are_named(table):
    import zipfile
    for entry, message in (("tags.csv", "zip archive"), ("Index/Document.iwa", "Numbers"),
                           ("content.xml", "OpenOffice")):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(entry, "x")
        check_error(table.run(stream.getvalue(), name="t.bin"), 65, message)


def test_the_conversion_that_is_shown_for_npy_files_works(table, monkeypatch):
    labels = {2007000032: np.array([1, 0, 1]), "2008_000001": np.array([0, 0, 0])}
    np.save(table.folder / "cls_labels.npy", labels, allow_pickle=True)
    content = (table.folder / "cls_labels.npy").read_bytes()
    message = check_error(table.run(content, name="cls_labels.npy"), 65, "pickles", "two lines")
    monkeypatch.chdir(table.folder)
    (table.folder / "classes.txt").write_text("dog\ncat\nbird\n")
    first, second = re.search(r"background: (import .*) ; (open\(.*\))\.?$", message).groups()
    with contextlib.redirect_stdout(None):
        exec(f"{first}\n{second}", {})
    assert (table.folder / "labels.csv").read_text() == "id,labels\n2007_000032,dog;bird\n2008_000001,\n"


def test_the_table_of_a_voc_tree_is_read_in_the_same_way(tiny_dataset, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "voc")
    command = ("index", "voc", root, "--split", "train", "--tags-only", "--labels", root / "t.csv", "-o",
               tmp_path / "i.h5")
    for content, message in (("id,x\na,b\n", "no column holds tags, only id, x"),
                             ("id,label,tag\na,cat,dog\n", "'label' and 'tag' could both hold the tags")):
        (root / "t.csv").write_text(content)
        check_error(run(*command), 65, "t.csv", message)
    (root / "t.csv").write_text("Image;Class\npicture_000.jpg;\"['Cat', 'dog']\"\n")
    done = run(*command)
    assert done.code == 0 and "1 tag differs from its class only in letter case" in done.err
    assert ImageSource(Shard(tmp_path / "i.h5")).read_labels("picture_000") == (1, 2)
