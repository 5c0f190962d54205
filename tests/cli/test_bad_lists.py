"""Lists, tables and folders with mistakes, and with unusual but valid contents, through the whole command."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from cli.runner import SMALL, check_error, copy_dataset, run, run_ok
from stages.data.image_source import ImageSource
from stages.shards import Run, Shard


@pytest.fixture
def root(tiny_dataset, tmp_path) -> Path:
    """Return a copy of the tiny set."""
    return copy_dataset(tiny_dataset, tmp_path / "set")


def index_by_table(root: Path, output: Path, text: str | bytes, *more: object):
    """Index the set with a table that has the given text."""
    (root / "tags.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return run("index", "table", root / "tags.csv", "--images", root / "JPEGImages", "-o", output, "--class-names",
               root / "classes.txt", *more)


def index_by_list(root: Path, output: Path, text: str | bytes):
    """Index the set as a VOC tree with a list that has the given text."""
    (root / "list.txt").write_bytes(text.encode() if isinstance(text, str) else text)
    return run("index", "voc", root, "--list", root / "list.txt", "--labels", root / "labels.csv", "-o", output)


def test_a_list_from_a_pipe_is_read_once(root, tmp_path):
    import os
    import threading
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("picture_000\npicture_001\n",))
    writer.start()
    run_ok("index", "voc", root, "--list", pipe, "--labels", root / "labels.csv", "-o", tmp_path / "one.h5")
    writer.join()
    assert Shard(tmp_path / "one.h5").ids == ("picture_000", "picture_001")


@pytest.mark.parametrize(("text", "code", "messages"), [
    ("", 66, ("tags.csv", "has no rows")),
    ("id,tags\n", 66, ("tags.csv", "has no rows")),
    ("name,tags\na,cat\n", 65, ("tags.csv", "id or path")),
    ("id,tags\npicture_000,cats\n", 65, ("tags.csv:2", "'cats' is not a class", "Did you mean 'cat'?")),
    ("id,tags\npicture_000,Dogg\n", 65, ("tags.csv:2", "'Dogg' is not a class", "Did you mean 'dog'?")),
    ("id,tags\npicture_000,cat;dog\npicture_001,dog\npicture_000,dog\n", 65, ("'picture_000'", "lines 2 and 4")),
    ("id,tags\n/etc/passwd,cat\n", 65, ("tags.csv:2", "/etc/passwd")),
    ("id,tags\n../picture_000,cat\n", 65, ("tags.csv:2", "../picture_000")),
    ("path,tags\n../../x.jpg,cat\n", 65, ("tags.csv:2", "../../x.jpg", "leads out")),
    ("id,tags\n\"picture_000,cat\n", 65, ("tags.csv",)),
    ("id,tags\npicture_000,cat,dog\n", 65, ("tags.csv:2", "3 cells", "2 columns")),
    (b"id,tags\n\xff\xfe,cat\n", 65, ("tags.csv", "UTF-8")),
    ("id,tags\nnobody,cat\n", 66, ("JPEGImages", "none of the 1 images")),
    (f"id,tags\n{'x' * 201},cat\n", 65, ("tags.csv:2", "201 characters")),
    (b"id,tags\nnul\0x,cat\n", 65, ("tags.csv:2", "NUL")),
    ('id,tags\n"two\nlines",cat\n', 65, ("tags.csv:3", "line break")),
    ("id,tags\n.,cat\n", 65, ("tags.csv:2", "'.'")), ("id,tags\n..,cat\n", 65, ("tags.csv:2", "'..'")),
    ("id,tags\na//b,cat\n", 65, ("tags.csv:2", "'a//b'"))])
def test_invalid_tables(root, tmp_path, text, code, messages):
    check_error(index_by_table(root, tmp_path / "i.h5", text), code, *messages)
    assert not (tmp_path / "i.h5").exists()


@pytest.mark.parametrize(("text", "code", "messages"), [
    ("", 66, ("list.txt", "the list is empty")), ("\r\n \n", 66, ("list.txt", "the list is empty")),
    ("picture_000\npicture_001\npicture_000\n", 65, ("list.txt", "lines 1 and 3")),
    ("../x\n", 65, ("list.txt:1", "../x")), ("nobody\n", 66, ("JPEGImages",)), (b"\x80\n", 65, ("UTF-8",))])
def test_invalid_lists(root, tmp_path, text, code, messages):
    check_error(index_by_list(root, tmp_path / "i.h5", text), code, *messages)
    assert not (tmp_path / "i.h5").exists()


def test_lists_with_bom_windows_line_ends_and_blanks(root, tmp_path):
    text = b"\xef\xbb\xbfpicture_003\r\n  picture_001  \r\n\r\npicture_002"
    done = index_by_list(root, tmp_path / "i.h5", text)
    assert done.code == 0, done.err
    assert Shard(tmp_path / "i.h5").ids == ("picture_003", "picture_001", "picture_002")
    table = b"\xef\xbb\xbfID;Tags\r\npicture_003;cat\r\n"
    assert index_by_table(root, tmp_path / "t.h5", table).code == 0
    assert Shard(tmp_path / "t.h5").ids == ("picture_003",)


NAMES = ("two words", "caf\u00e9", "cafe\u0301", "\u732b", "deep/er/one", "50%", "-dash", "semi;colon",
         "name.with.dots", "%2F", "\U0001f600")


def test_unusual_ids_work_in_all_stages(tiny_dataset, tiny_net, tmp_path):
    source = tiny_dataset.root / "JPEGImages" / "picture_000.jpg"
    lines = []
    for name in NAMES:
        path = tmp_path / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
        lines.append(json.dumps({"id": name, "tags": ["cat"]}))
    (tmp_path / "tags.jsonl").write_text("\n".join(lines), encoding="utf-8")
    run_ok("index", "table", tmp_path / "tags.jsonl", "--images", tmp_path / "images", "--class-names",
         tiny_dataset.root / "classes.txt", "-o", tmp_path / "i.h5")
    run_ok("cams", "cnn", tmp_path / "i.h5", "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    run_ok("refine", "crf", tmp_path / "cams", "-o", tmp_path / "crf")
    run_ok("pseudo", tmp_path / "crf", "-o", tmp_path / "masks")
    assert tuple(Run([tmp_path / "masks"]).ids) == NAMES
    run_ok("export", "png", tmp_path / "masks", "-o", tmp_path / "png")
    for name in NAMES:
        assert (tmp_path / "png" / f"{name}.png").is_file()
    run_ok("show", tmp_path / "cams", tmp_path / "masks", "--count", "11", "-o", tmp_path / "look.png")
    assert [line.split("\t")[1] for line in run_ok("check", tmp_path / "i.h5", tmp_path / "masks")] == ["good", "good"]


def test_images_without_tags(root, tmp_path):
    """An empty cell means that the image has no class; a missing row means that its classes are unknown."""
    done = run("index", "voc", root, "--split", "train", "--labels", write_table(root, "id,tags\npicture_000,\n"),
               "-o", tmp_path / "i.h5")
    assert done.code == 0
    assert "11 of 12 images have no tags (unknown)" in done.err
    source = ImageSource(Shard(tmp_path / "i.h5"))
    assert source.read_labels("picture_000") == ()
    assert source.read_labels("picture_001") is None


def write_table(root: Path, text: str) -> Path:
    (root / "some.csv").write_text(text)
    return root / "some.csv"


def test_missing_files_and_folders(root, tmp_path):
    output = ("-o", tmp_path / "i.h5")
    labels = root / "labels.csv"
    none = tmp_path / "none"
    for code, messages, words in [
        (66, str(none), ("voc", none, "--split", "train")),
        (66, "JPEGImages", ("voc", root / "JPEGImages", "--split", "train")),
        (66, "train", ("voc", root, "--split", "vall")),
        (66, str(none), ("voc", root, "--list", none)),
        (66, str(none), ("voc", root, "--split", "train", "--masks", none)),
        (66, str(none), ("voc", root, "--split", "train", "--labels", none)),
        (66, str(none), ("table", none, "--images", root)),
        (66, str(none), ("table", labels, "--images", none)),
        (66, "labels.csv", ("table", labels, "--images", labels)),
        (66, str(root), ("table", root, "--images", root / "JPEGImages")),
        (66, str(none), ("table", labels, "--images", root / "JPEGImages", "--class-names", none)),
        (66, "none of the 12", ("table", labels, "--images", root / "SegmentationClass" / "..")),
        (66, "has a mask in this", ("table", labels, "--images", root / "JPEGImages", "--masks", root / "ImageSets")),
        (66, str(none), ("folder", none)),
        (66, "no image", ("folder", root / "ImageSets")),
        (66, str(none), ("coco", none, "--images", root)),
        (65, "labels.csv", ("coco", labels, "--images", root / "JPEGImages")),
        (2, "--split", ("voc", root)),
        (2, "--split", ("voc", root, "--split", "train", "--list", none)),
        (2, "one input path", ("folder", root, root)),
    ]:
        message = check_error(run("index", *words, *output), code, messages)
        assert message.startswith(f"wsss index {words[0]}: ")
    assert not (tmp_path / "i.h5").exists()


def test_invalid_coco_files(root, tmp_path):
    images = [{"id": 1, "file_name": "picture_000.jpg"}]
    for content, messages in [
        ("[]", "images"), ('{"images": [{"id": 1}]}', "file_name"),
        (json.dumps({"images": images * 2}), "two images have the id"),
        (json.dumps({"images": images, "annotations": [{"image_id": 2, "category_id": 1}],
                     "categories": [{"id": 1, "name": "cat"}]}), "image 2"),
        (json.dumps({"images": images, "annotations": [{"image_id": 1, "category_id": 9}],
                     "categories": [{"id": 1, "name": "cat"}]}), "category 9"),
        (json.dumps({"images": [{"id": 1, "file_name": "../x.jpg"}]}), "../x.jpg"),
    ]:
        (root / "c.json").write_text(content)
        check_error(run("index", "coco", root / "c.json", "--images", root / "JPEGImages", "-o", tmp_path / "i.h5"), 65,
                "c.json", messages)


def test_invalid_annotations_and_class_names(root, tmp_path):
    (root / "Annotations").mkdir()
    (root / "Annotations" / "picture_002.xml").write_text("<annotation><object>")
    words = ("index", "voc", root, "--split", "train", "-o", tmp_path / "i.h5")
    check_error(run(*words), 65, "picture_002.xml", "XML")
    (root / "Annotations" / "picture_002.xml").write_text("<a><object><name>kat</name></object></a>")
    check_error(run(*words), 65, "picture_002.xml", "'kat' is not a class", "'cat'")
    (root / "classes.txt").write_text("cat\ndog\ncat\n")
    check_error(run(*words), 65, "classes.txt", "'cat'", "lines 1 and 3")
    (root / "classes.txt").write_text("background\n")
    check_error(run(*words), 66, "classes.txt", "no class names")


def test_installed_command_prints_tracebacks_only_with_debug(wsss, root):
    done = wsss("index", "table", root / "labels.csv", "--images", root / "nowhere", "-o", "i.h5")
    check_error(done, 66, "nowhere", "no such folder")
    assert done.out == ""
    traced = wsss("index", "table", root / "labels.csv", "--images", root / "nowhere", "-o", "i.h5", "--debug")
    assert traced.code == 66
    assert "Traceback" in traced.err


@pytest.mark.parametrize(("name", "text", "messages"), [
    ("t.jsonl", '{"id": "a", "tags": ["cat", "\\ud800"]}', (r"t.jsonl:1: tags '\ud800' is not valid Unicode",)),
    ("t.jsonl", '{"id": "a"}\n{"id": "b", "caption": "\\udc80"}', (r"t.jsonl:2: caption '\udc80' is not valid",)),
    ("t.jsonl", '{"path": "\\ud800.jpg"}', (r"t.jsonl:1: path '\ud800.jpg'",)),
    ("t.jsonl", '{"id": "picture_000", "caption": "a\\u0000"}', (r"t.jsonl:1: caption 'a\x00'", "contains a NUL")),
    ("t.csv", "id,caption\npicture_000,a\0b\n", ("t.csv:2", "NUL")),
    ("c.json", '{"images": [{"id": 1, "file_name": "picture_000.jpg"}], "categories": [{"id": 1, "name": "\\ud800"}]}',
     (r"c.json: categories[0].name '\ud800' is not valid Unicode",)),
    ("c.json", '{"images": [{"id": 1, "file_name": "picture_000.jpg"}], "annotations": [{"image_id": 1, "caption": '
     '"\\ud800"}]}', (r"c.json: annotations[0].caption '\ud800' is not valid Unicode",))])
def test_text_that_cannot_be_stored(root, tmp_path, name, text, messages):
    (root / name).write_text(text)
    layout = "coco" if name == "c.json" else "table"
    done = run("index", layout, root / name, "--images", root / "JPEGImages", "-o", tmp_path / "i.h5")
    check_error(done, 65, *messages)
    assert not (tmp_path / "i.h5").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_a_folder_whose_name_is_not_utf8(root, tmp_path):
    path = tmp_path / "bad \udcff"
    root.rename(path)
    done = run("index", "table", path / "labels.csv", "--images", path / "JPEGImages", "-o", tmp_path / "i.h5")
    check_error(done, 65, r"\udcff", "is not valid Unicode")
