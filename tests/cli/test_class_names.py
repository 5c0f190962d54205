"""Lists of class names as programs write them, through `wsss index`: order of the classes, messages, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, copy_dataset, run
from stages.shards import Shard

CLASSES = ("background", "cat", "dog")


def index(folder: Path, name: str, content: str | bytes, *options: object):
    """Index two tags with a class list of the given name and content."""
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    (folder / "tags.csv").write_text("id,tags\na,cat\nb,dog\n")
    return run("index", "table", folder / "tags.csv", "--tags-only", "--force", "--class-names", folder / name, "-o",
               folder / "i.h5", *options)


def write_masks(folder: Path) -> Path:
    (folder / "masks").mkdir()
    for name, value in (("a", 1), ("b", 2)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(folder / "masks" / f"{name}.png")
    return folder / "masks"


NNUNET = {"channel_names": {"0": "R"}, "labels": {"background": 0, "cat": 1, "dog": 2}, "numTraining": 2}
SAME_IDS = [
    ("names.txt", "cat\ndog\n"), ("names.txt", "background\ncat\ndog\n"), ("names.txt", "\ufeffBG\r\ncat\r\ndog\r\n"),
    ("names.txt", "_background_\ncat\ndog"), ("names.txt", "__Background__\ncat\ndog\n"), ("names.txt", "cat\rdog\r"),
    ("labels.txt", "__ignore__\n_background_\ncat\ndog\n"), ("names.txt", "# mine\n'cat'\n\"dog\",\n"),
    ("names.txt", "background\ncat\ndog\nvoid\n"), ("names.txt", "- cat\n- dog\n"),
    ("labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:1,2,3::\ndog:4,5,6:head,tail:run\n"),
    ("labelmap.txt", "cat:1,2,3::\nbackground:0,0,0::\ndog:4,5,6::\n"),
    ("labels.txt", "0 background\n1 cat\n2 dog\n"), ("labels.txt", "1: cat\n2: dog\n"),
    ("labels.txt", "2 dog\n1 cat\n"),
    ("labels.txt", "1. cat\n2. dog\n"), ("classes.csv", "id,name\n1,cat\n2,dog\n"),
    ("c.csv", "Name;ID\ndog;2\ncat;1\n"),
    ("class_dict.csv", "name,r,g,b\nbackground,0,0,0\ncat,1,2,3\ndog,4,5,6\n"),
    ("data.yaml", "train: ../train/images\nnc: 2\nnames: ['cat', 'dog']\n"), ("data.yml", "names:\n- cat\n- dog\n"),
    ("data.yaml", "names:\n  0: background\n  1: cat\n  2: dog\n"), ("data.yaml", "names: {1: cat, 2: dog}\n"),
    ("dataset.json", json.dumps(NNUNET)), ("dataset.json", json.dumps({"labels": {"0": "background", "1": "cat",
                                                                               "2": "dog"}})),
    ("config.json", '{"id2label": {"0": "background", "1": "cat", "2": "dog"}, "label2id": {"cat": 1}}'),
    ("names.json", '["cat", "dog"]'), ("names.json", '{"cat": 1, "dog": 2}'), ("names.txt", '["cat", "dog"]'),
    ("coco.json", '{"images": [], "categories": [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}]}'),
    ("categories.json", '[{"id": 1, "name": "cat", "supercategory": "pet"}, {"id": 2, "name": "dog"}]'),
    ("names.txt", "cat\ndog\n".encode("utf-16")), ("labels.txt", "background 0\ncat 1\ndog 2\n"),
    ("names.csv", "class_name\ncat\ndog\n"), ("labelmap.txt", "background:0,0,0\ncat:1,2,3\ndog:4,5,6\n"),
    ("n.yaml", "[cat, dog]\n"), ("data.yaml", "nc: 2\nnames: [cat, dog]\n")]
OTHER_IDS = [
    ("names.txt", "cat\ndog\nbackground\n", "0=1,1=2,2=0", "'background' was moved to the front"),
    ("names.txt", "cat\nBackground\ndog\n", "0=1,1=0,2=2", "'Background' was moved to the front"),
    ("labels.txt", "__ignore__\ncat\ndog\n", "0=1,1=2", "0 became 1"),
    ("data.yaml", "names: {0: cat, 1: dog}\n", "0=1,1=2", "numbers in the file"),
    ("labels.txt", "0 cat\n1 dog\n", "0=1,1=2", "numbers in the file"),
    ("labels.txt", "0 background\n7 cat\n9 dog\n", "0=0,7=1,9=2", "7 became 1"),
    ("d.json", '{"labels": {"background": 0, "dog": 2, "cat": 1, "ignore": 3, "x": 5}}', "0=0,1=1,2=2,3=ignore,5=3",
     "3 became ignored"),
    ("names.json", '{"dog": 2, "cat": 1, "background": 3}', "1=1,2=2,3=0", "3 became 0"),
    ("coco.json", '{"categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]}', "17=1,18=2", "17 became 1")]


@pytest.mark.parametrize(("name", "content"), SAME_IDS)
def test_lists_whose_ids_are_those_of_masks(tmp_path, name, content):
    done = index(tmp_path, name, content, "--masks", write_masks(tmp_path))
    assert done.code == 0, done.err
    assert Shard(tmp_path / "i.h5").classes == CLASSES
    assert "0 background, 1 cat, 2 dog" in done.err


@pytest.mark.parametrize(("name", "content", "pairs", "note"), OTHER_IDS)
def test_lists_with_other_ids_do_not_shift_masks_silently(tmp_path, name, content, pairs, note):
    done = index(tmp_path, name, content)
    assert done.code == 0 and Shard(tmp_path / "i.h5").classes[:3] == CLASSES
    assert note in done.err and "differ from the numbers in the file" in done.err
    check_error(index(tmp_path, name, content, "--masks", write_masks(tmp_path)), 65, name, f"--mask-values {pairs} if")


@pytest.mark.parametrize(("content", "classes"), [
    ("void\ncat\ndog\n", ("", "cat", "dog")), ("VOID\ncat\ndog\n", ("", "cat", "dog")),
    ("cat\ndog\nvoid\n", ("", "cat", "dog")), ("void\nbackground\ncat\ndog\n", CLASSES)])
def test_void_alone_means_that_there_is_no_background(tmp_path, content, classes):
    assert index(tmp_path, "names.txt", content).code == 0
    assert Shard(tmp_path / "i.h5").classes == classes


@pytest.mark.parametrize(("name", "content", "messages"), [
    ("n.txt", "cat\ndog\n\nCat\n", ("'Cat' is repeated in lines 1 and 4", "'cat'")),
    ("n.txt", "caf\u00e9\ncat\ncafe\u0301\n", ("lines 1 and 3",)), ("n.txt", "background\ncat\nbg\n", ("1 and 3",)),
    ("n.txt", "1 cat\n1 dog\n", ("same number 1", "line 1, line 2")),
    ("n.txt", "cat, dog\n", ("n.txt:1", "several names")),
    ("n.txt", "item {\n  id: 1\n  name: 'cat'\n}\n", ("n.txt:1", "not a class name")),
    ("n.txt", "<xml>\n", ("n.txt:1", "not a class name")), ("n.csv", "id,name\n1,cat,x\n", ("n.csv:2", "3 cells")),
    ("n.csv", "id,name\none,cat\n", ("n.csv:2", "'one'")), ("n.json", "{", ("not valid JSON",)),
    ("n.json", '{"cat": [1]}', ("entry 1, 'cat'",)), ("n.json", '[["cat"]]', ("entry 1 is not a class name",)),
    ("n.json", '{"cat": 1, "cat": 2}', ("entries 1 and 2", "'cat'")), ("n.json", "3", ("no list or map",)),
    ("n.yaml", "names: [cat\n", ("n.yaml:", "not valid YAML")), ("n.yaml", "names: [cat, dog, cat]\n", ("1 and 3",)),
    ("n.yaml", "a: &a [cat]\nnames: *a\n", ("aliases",)), ("n.yaml", "names: [cat, '']\n", ("entry 2", "empty")),
    ("n.txt", "cat\n\u72d7\n".encode("gbk"), ("UTF-8",)), ("data.yaml", "nc: 3\nnames: [cat, dog]\n", ("nc is 3",)),
    ("labelmap.txt", "cat:0,0,0::\ndog:1,2\n", ("labelmap.txt:2", "CVAT"))])
def test_lists_that_are_rejected(tmp_path, name, content, messages):
    check_error(index(tmp_path, name, content), 65, name, *messages)


@pytest.mark.parametrize("names", [("region 1", "region 2"), ("Boeing 737", "Airbus 320"), ("T-shirt", "(small) dog"),
                                   ("salt, pepper", "car/truck")])
def test_unusual_names_are_kept(tmp_path, names):
    (tmp_path / "t.csv").write_text(f'id,tags\na,"{names[0]}"\n')
    (tmp_path / "n.txt").write_text("\n".join(names))
    assert run("index", "table", tmp_path / "t.csv", "--tags-only", "--class-names", tmp_path / "n.txt", "-o",
               tmp_path / "i.h5").code == 0
    assert Shard(tmp_path / "i.h5").classes == ("background", *names)


def test_names_of_yaml_are_texts(tmp_path):
    (tmp_path / "t.csv").write_text("id,tags\na,no\nb,1\n")
    (tmp_path / "n.yaml").write_text("names: [yes, no, 1, 1.0, null]\n")
    done = run("index", "table", tmp_path / "t.csv", "--tags-only", "--class-names", tmp_path / "n.yaml", "-o",
               tmp_path / "i.h5")
    assert done.code == 0, done.err
    assert Shard(tmp_path / "i.h5").classes == ("background", "yes", "no", "1", "1.0", "null")


def write_annotations(root: Path, *names: str) -> None:
    (root / "Annotations").mkdir()
    for number, name in enumerate(names):
        (root / "Annotations" / f"picture_00{number}.xml").write_text(
            f"<annotation><object><name>{name}</name></object></annotation>")


def test_a_voc_tree_with_other_objects_names_them_and_the_option(tiny_dataset, tmp_path):
    root = copy_dataset(tiny_dataset, tmp_path / "voc")
    (root / "classes.txt").unlink()
    write_annotations(root, "apple", "Cat", "zebra")
    options = ("--split", "train", "-o", tmp_path / "i.h5")
    check_error(run("index", "voc", root, *options), 65, "'apple', 'zebra' are not among VOC's 20 classes",
                "--class-names FILE", "picture_000.xml")
    (root / "labelmap.txt").write_text("apple:1,1,1::\nbackground:0,0,0::\ncat:2,2,2::\nzebra:3,3,3::\n")
    done = run("index", "voc", root, *options)
    assert done.code == 0, done.err
    assert Shard(tmp_path / "i.h5").classes == ("background", "apple", "cat", "zebra")
    assert "classes of labelmap.txt (CVAT's label map) are 0 background, 1 apple, 2 cat, 3 zebra" in done.err
    assert "1 tag differs from its class only in letter case" in done.err
    (root / "classes.txt").write_text("apple\nzebra\ncat\n")
    check_error(run("index", "voc", root, *options), 65, "classes.txt and labelmap.txt have different classes",
                "--class-names")


def test_folders_of_one_class_in_two_spellings(tmp_path):
    for folder in ("Dog", "dog", "__background__", "BG"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / folder / f"{folder}.png")
    done = run("index", "folder", tmp_path / "photos", "-o", tmp_path / "i.h5")
    assert done.code == 0 and len(Shard(tmp_path / "i.h5").classes) == 2
    assert "'Dog' and 'dog' are one class, 'Dog'" in done.err
