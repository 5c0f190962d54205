"""Importers on small folders created here; images are empty files, since importers must not open them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stages.data.folders import read_labels_from_masks
from stages.data.layout_coco import list_coco
from stages.data.layout_folder import list_folder
from stages.data.layout_table import list_table
from stages.data.layout_voc import VOC_CLASSES, list_voc
from stages.data.masks import encode_mask
from stages.data.records import ImageRecord
from stages.errors import BadData, MissingInput

ANNOTATION = """<annotation><object><name>person</name><part><name>head</name></part></object>
<object><name>dog</name><difficult>1</difficult></object><object><name>dog</name></object></annotation>"""


def write_files(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    mask = encode_mask(np.array([[0, 15, 255, 12]], dtype=np.uint8))
    return write_files(
        tmp_path / "VOC2012",
        {
            "JPEGImages/a.jpg": "", "JPEGImages/b.PNG": "", "JPEGImages/c.jpg": "",
            "ImageSets/Segmentation/train.txt": "\ufeffa\r\nb\r\n", "ImageSets/Segmentation/test.txt": "c\n",
            "Annotations/a.xml": ANNOTATION, "SegmentationClass/a.png": mask,
        },
    )  # fmt: skip


def test_voc_reads_annotations_with_difficult_objects(voc):
    listing = list_voc(voc, split="train")
    assert listing.classes == VOC_CLASSES and len(VOC_CLASSES) == 21 and listing.root == voc
    first, second = listing.records
    assert (first.id, first.path, first.mask_path) == ("a", "JPEGImages/a.jpg", "SegmentationClass/a.png")
    assert first.labels == (12, 15) and second.labels is None
    assert (second.path, second.mask_path) == ("JPEGImages/b.PNG", None)
    assert listing.supervision == "tags"
    assert listing.notes == ("1 of 2 images have no tags (unknown).", "1 of 2 images have no mask.")


def test_voc_test_split_needs_neither_masks_nor_tags(voc):
    listing = list_voc(voc, split="test")
    assert [(record.id, record.labels, record.mask_path) for record in listing.records] == [("c", None, None)]
    assert listing.supervision == "none"
    assert [record.id for record in list_voc(voc).records] == ["a", "b", "c"]


def test_voc_label_table_overrides_annotations(voc):
    table = write_files(voc, {"t.csv": "id,labels\nb,cat dog\na,\nz,nonsense\n"}) / "t.csv"
    listing = list_voc(voc, split="train", labels=table)
    assert [record.labels for record in listing.records] == [(), (8, 12)]
    assert "The tags are from t.csv, not from Annotations." in listing.notes


def test_voc_augmented_lists_with_masks(voc):
    rows = [f"/JPEGImages/{file} /SegmentationClassAug/{file[0]}.png" for file in ("b.PNG", "a.jpg")]
    write_files(voc, {"SegmentationClassAug/b.png": b"", "aug.txt": "\n".join(rows)})
    listing = list_voc(voc, list_file=voc / "aug.txt")
    assert [(record.id, record.mask_path) for record in listing.records] == [
        ("b", "SegmentationClassAug/b.png"), ("a", None)]
    write_files(voc, {"bad.txt": "/../x.jpg\n"})
    with pytest.raises(BadData, match=r"bad\.txt:1: the path '\.\./x\.jpg' leads out"):
        list_voc(voc, list_file=voc / "bad.txt")


def test_voc_masks_in_another_folder_move_the_root(voc):
    masks = write_files(voc.parent / "aug", {"a.png": b"", "b.png": b""})
    listing = list_voc(voc, split="train", masks=masks)
    assert listing.root == voc.parent
    assert [(record.path, record.mask_path) for record in listing.records] == [
        ("VOC2012/JPEGImages/a.jpg", "aug/a.png"),
        ("VOC2012/JPEGImages/b.PNG", "aug/b.png"),
    ]
    with pytest.raises(MissingInput, match="none of the 1 images has a mask"):
        list_voc(voc, split="test", masks=masks)


def test_voc_labels_from_masks_only_on_request(voc):
    listing = list_voc(voc, split="train", labels_from_masks=True)
    assert [record.labels for record in listing.records] == [(12, 15), None]
    assert listing.supervision == "masks"
    write_files(voc, {"SegmentationClass/b.png": b"broken"})
    listing = list_voc(voc, split="train", labels_from_masks=True)
    assert listing.records[1].labels is None and "The labels of b are unknown: " in listing.notes[0]


def test_masks_outside_the_root_are_not_read(tmp_path):
    outside, inside = (encode_mask(np.full((2, 2), label, np.uint8)) for label in (1, 2))
    write_files(tmp_path, {"x.png": outside, "set/x.png": inside})
    records = [ImageRecord(name, "a.jpg", None, mask_path=path) for name, path in (("a", "../x.png"), ("b", "x.png"))]
    records, notes = read_labels_from_masks(records, tmp_path / "set", 2)
    assert [record.labels for record in records] == [None, (2,)]
    assert len(notes) == 1 and notes[0].startswith("The labels of a are unknown: ../x.png: the file is outside")


def test_voc_own_classes_and_captions(voc):
    write_files(voc, {"classes.txt": "void\ndog\nperson\n", "c.csv": "id,caption\na,one\na,two\n"})
    listing = list_voc(voc, split="train", captions=voc / "c.csv")
    assert listing.classes == ("", "dog", "person")
    assert listing.records[0].labels == (1, 2) and listing.records[0].captions == ("one", "two")
    write_files(voc, {"other.txt": "dog\nhuman\n"})
    with pytest.raises(BadData, match=r"a\.xml: the tag 'person' is not a class"):
        list_voc(voc, split="train", class_names=voc / "other.txt")


def test_voc_missing_inputs(voc):
    with pytest.raises(MissingInput, match=r"there is no folder JPEGImages\W+Did you mean .*VOC2012"):
        list_voc(voc.parent, split="train")
    with pytest.raises(MissingInput, match=r"no split 'val' \(available: test, train\)"):
        list_voc(voc, split="val")
    write_files(voc, {"far.txt": "x\ny\n"})
    with pytest.raises(MissingInput, match="none of the 2 images exists"):
        list_voc(voc, list_file=voc / "far.txt")
    with pytest.raises(MissingInput, match="no such folder"):
        list_voc(voc / "none")
    write_files(voc, {"Annotations/a.xml": "<annotation>"})
    with pytest.raises(BadData, match="the XML is malformed"):
        list_voc(voc, split="train")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_files(tmp_path, {"img/a b.JPG": "", "img/sub/c.png": "", "img/d.jpg": "", "gt/d.png": b""}) / "img"


def test_table_by_id(photos):
    write_files(photos, {"t.csv": "id,tags\na b,potted plant;cow\nsub/c,potted plant\nd,\nmissing,cow\n"})
    listing = list_table(photos / "t.csv", images=photos)
    assert listing.classes == ("background", "cow", "potted plant") and listing.root == photos
    assert [(record.id, record.path, record.labels) for record in listing.records] == [
        ("a b", "a b.JPG", (1, 2)), ("sub/c", "sub/c.png", (2,)), ("d", "d.jpg", ()), ("missing", "missing.jpg", (1,)),
    ]  # fmt: skip
    assert listing.notes == ("Found 2 classes in the tags: cow (2 images), potted plant (2).",
                             "1 of 4 images do not exist.")


def test_table_by_path_with_masks(photos):
    rows = [{"path": "sub/c.png"}, {"path": f"{photos}/d.jpg", "tags": ["cow"]}]
    write_files(photos, {"t.jsonl": "\n".join(map(json.dumps, rows))})
    listing = list_table(photos / "t.jsonl", images=photos, masks=photos.parent / "gt")
    assert [(record.id, record.path, record.labels, record.mask_path) for record in listing.records] == [
        ("sub/c", "img/sub/c.png", None, None),
        ("d", "img/d.jpg", (1,), "gt/d.png"),
    ]
    write_files(photos, {"out.csv": "path\n../gt/d.png\n"})
    with pytest.raises(BadData, match=r"out\.csv:2: the path '../gt/d.png' leads out"):
        list_table(photos / "out.csv", images=photos)


def test_table_tags_and_ids_are_checked(photos):
    write_files(photos, {"t.csv": "id,tags\nd,cwo\n", "twice.csv": "id,tags\nd,cow;pig\nd,cow\n",
                         "names": "cow\nhorse\n"})
    with pytest.raises(BadData, match=r"t\.csv:2: the tag 'cwo' is not a class\W+Did you mean 'cow'\?"):
        list_table(photos / "t.csv", images=photos, class_names=photos / "names")
    with pytest.raises(BadData, match="'d' is repeated in lines 2 and 3"):
        list_table(photos / "twice.csv", images=photos)
    with pytest.raises(MissingInput, match="none of the 1 images exists"):
        list_table(photos / "t.csv", images=photos.parent / "gt" / "..")


COCO = {
    "images": [{"id": 5, "file_name": "d.jpg"}, {"id": 3, "file_name": "sub/c.png"}],
    "categories": [{"id": 90, "name": "toothbrush"}, {"id": 18, "name": "dog"}],
    "annotations": [{"image_id": 5, "category_id": 90}, {"image_id": 5, "category_id": 18, "iscrowd": 1}],
}


def test_coco_instances_and_captions(photos):
    texts = {"images": COCO["images"], "annotations": [{"image_id": 3, "caption": "a\n cat"}]}
    write_files(photos, {"i.json": json.dumps(COCO), "c.json": json.dumps(texts)})
    listing = list_coco(photos / "i.json", images=photos, captions=photos / "c.json")
    assert listing.classes == ("background", "dog", "toothbrush")
    assert [(record.id, record.path, record.labels, record.captions) for record in listing.records] == [
        ("d", "d.jpg", (1, 2), ()),
        ("sub/c", "sub/c.png", (), ("a cat",)),
    ]
    captions_only = list_coco(photos / "c.json", images=photos)
    assert captions_only.supervision == "captions" and captions_only.records[0].labels is None


def test_coco_masks_in_another_folder(photos):
    write_files(photos, {"i.json": json.dumps(COCO)})
    write_files(photos.parent, {"truth/sub/c.png": "", "truth/other.png": ""})
    listing = list_coco(photos / "i.json", images=photos, masks=photos.parent / "truth")
    assert listing.root == photos.parent
    assert [(record.id, record.path, record.mask_path) for record in listing.records] == [
        ("d", f"{photos.name}/d.jpg", None), ("sub/c", f"{photos.name}/sub/c.png", "truth/sub/c.png")]
    assert "1 of 2 images have no mask." in listing.notes
    write_files(photos.parent, {"elsewhere/other.png": ""})
    with pytest.raises(MissingInput, match="none of the 2 images has a mask"):
        list_coco(photos / "i.json", images=photos, masks=photos.parent / "elsewhere")
    with pytest.raises(MissingInput, match="no such folder"):
        list_coco(photos / "i.json", images=photos, masks=photos.parent / "nowhere")


def test_malformed_coco_files_are_rejected(photos):
    bad = {
        "image 8": {**COCO, "annotations": [{"image_id": 8, "category_id": 18}]},
        "category 7": {**COCO, "annotations": [{"image_id": 5, "category_id": 7}]},
        "image 1 lacks file_name": {"images": [{"id": 1}]},
        'no list "images"': [],
        "leads out": {"images": [{"id": 1, "file_name": "../x.jpg"}]},
        "two images have the id 'd'": {"images": [{"id": 1, "file_name": "d.jpg"}, {"id": 2, "file_name": "d.png"}]},
    }
    for message, content in bad.items():
        write_files(photos, {"i.json": json.dumps(content)})
        with pytest.raises(BadData, match=message):
            list_coco(photos / "i.json", images=photos)
    write_files(photos, {"i.json": json.dumps(COCO), "empty/x": ""})
    with pytest.raises(MissingInput, match="none of the 2 images exists"):
        list_coco(photos / "i.json", images=photos / "empty")


def test_folder_per_class(tmp_path):
    files = ["cow/1.jpg", "dog/1.jpg", "dog/deep/2.PNG", "void/3.jpg", "4.jpg", "dog/x.txt", ".git/5.jpg"]
    write_files(tmp_path, dict.fromkeys(files, ""))
    listing = list_folder(tmp_path)
    assert listing.classes == ("background", "cow", "dog")
    assert {record.id: record.labels for record in listing.records} == {
        "4": None, "void/3": (), "cow/1": (1,), "dog/1": (2,), "dog/deep/2": (2,),
    }  # fmt: skip
    assert len(listing.notes) == 1
    write_files(tmp_path, {"names": "cow\n"})
    with pytest.raises(BadData, match="the tag 'dog' is not a class"):
        list_folder(tmp_path, class_names=tmp_path / "names")
    write_files(tmp_path, {"cow/1.png": ""})
    with pytest.raises(BadData, match=r"cow/1\.jpg and cow/1\.png have the same id 'cow/1'"):
        list_folder(tmp_path)


def test_folder_without_images(tmp_path):
    with pytest.raises(MissingInput, match="there is no image in this folder"):
        list_folder(tmp_path)
    with pytest.raises(MissingInput, match="no such folder"):
        list_folder(tmp_path / "none")


@pytest.mark.parametrize("names", [["mouse", "mouse"], ["Mouse", "mouse"], ["", "cat"], [" ", "cat"]])
def test_coco_categories_must_have_unique_names(photos, names):
    (photos / "i.json").write_text(json.dumps({
        "images": [], "annotations": [], "categories": [{"id": index, "name": name}
                                                        for index, name in enumerate(names)]}))
    with pytest.raises(BadData, match=r"categories\[[01]\] has the name"):
        list_coco(photos / "i.json", images=photos)


def test_a_table_without_tags_is_indexed_for_the_classes_of_a_network(photos):
    write_files(photos, {"t.csv": "id\nd\n"})
    listing = list_table(photos / "t.csv", images=photos, classes=("background", "cow"))
    assert [record.labels for record in listing.records] == [None] and listing.supervision == "none"
    with pytest.raises(BadData, match=r"no column holds tags or captions, only id\W.*--no-tags"):
        list_table(photos / "t.csv", images=photos)
    assert list_table(photos / "t.csv", images=photos, reads_tags=False).classes == ("background",)
