"""`wsss export`: every format gives the masks back, with awkward names, shapes, images and settings."""

from __future__ import annotations

import errno
import json
import os
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCSegmentation

from cli import export_readers as readers
from cli.runner import check_error, run, run_ok
from cli.test_look import write_masks
from stages.shards import Item
from tiny_datasets import save_mask

CLASSES = ("background", "<cat & dog>, big", "tree \"house\"", "été: |x|")
PLAIN = ("background", "cat", "tree house", "été")
SIZE = (40, 56)
IDS = ("a", "sub/a", "sub/Überblick 1")
FORMATS = ("voc", "coco", "yolo", "labelme", "cvat", "labelstudio", "mmseg", "hf")


def draw_masks() -> dict[str, np.ndarray]:
    """Draw masks with holes, islands, single pixels, pixels that touch at a corner, borders, and one of background."""
    y, x = np.mgrid[:SIZE[0], :SIZE[1]]
    radius = np.hypot(y - 20, x - 20)
    first = np.where((radius < 18) & (radius > 7), 1, 0)
    first[radius < 3] = 2
    first[(radius >= 18) & (radius < 20)] = 255
    first[0, 50:] = first[-1, -1] = 3
    first[30:34, 50:54] = np.eye(4) * 2
    noise = np.zeros(SIZE, np.uint8)
    noise[:16, :20] = np.random.default_rng(0).choice([0, 1, 2, 3, 255], (16, 20), p=[0.5, 0.2, 0.1, 0.1, 0.1])
    return dict(zip(IDS, (first.astype(np.uint8), noise.astype(np.uint8), np.zeros(SIZE, np.uint8)), strict=True))


def write_dataset(root: Path, masks: dict[str, np.ndarray], classes: tuple[str, ...] = CLASSES) -> None:
    for item_id, mask in masks.items():
        for folder in ("images", "masks"):
            (root / folder / item_id).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((*mask.shape, 3), 90, np.uint8)).save(root / "images" / f"{item_id}.jpg")
        save_mask(mask, root / "masks" / f"{item_id}.png")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    rows = "".join(f"{item_id}.jpg,\n" for item_id in masks)
    (root / "tags.csv").write_text(f"path,labels\n{rows}", encoding="utf-8")


def index(root: Path, *more: object) -> Path:
    run_ok("index", "table", root / "tags.csv", "--images", root / "images", "--masks", root / "masks",
           "--class-names", root / "classes.txt", "--no-tags", "-o", root / "index.h5", *more)
    return root / "index.h5"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """Return the index of images with the masks of `draw_masks`."""
    root = tmp_path_factory.mktemp("shapes")
    write_dataset(root, draw_masks())
    return index(root)


def keep_classes(masks: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.where(mask == 255, 0, mask) for name, mask in masks.items()}


def check_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], *, whole: bool = True) -> None:
    assert not whole or set(found) == set(expected)
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, expected[name], err_msg=name)


def test_run_lengths_and_masks_are_exact(shapes, tmp_path):
    masks = draw_masks()
    for more in ((), ("--components",)):
        done = run("export", "coco", shapes, "--images", "copy", "-o", tmp_path / f"coco{len(more)}", *more)
        assert done.code == 0 and "kept as crowd annotations" in done.err
        check_equal(readers.read_coco(tmp_path / f"coco{len(more)}", CLASSES), masks)
    for more in ((), ("--components",)):
        run_ok("export", "cvat", shapes, "--shapes", "mask", "--ignored", "keep", "--images", "link", "-o",
               tmp_path / "cvat", "-f", *more)
        check_equal(readers.read_cvat(tmp_path / "cvat", CLASSES), masks)
        run_ok("export", "labelstudio", shapes, "--ignored", "keep", "-o", tmp_path / "studio", "-f", *more)
        found = readers.read_labelstudio(tmp_path / "studio", CLASSES)
        assert set(found) == set(IDS[:2]), "an image without classes has no results"
        check_equal(found, masks, whole=False)


def test_polygons_without_tolerance_are_exact(shapes, tmp_path):
    masks, exact = draw_masks(), ("--images", "copy", "--tolerance", "0", "-o")
    run_ok("export", "coco", shapes, "--segmentation", "polygon", *exact, tmp_path / "coco")
    check_equal(readers.read_coco(tmp_path / "coco", CLASSES), masks)
    run_ok("export", "yolo", shapes, *exact, tmp_path / "yolo")
    check_equal(readers.read_yolo(tmp_path / "yolo", CLASSES, SIZE), keep_classes(masks))
    run_ok("export", "labelme", shapes, *exact, tmp_path / "labelme")
    check_equal(readers.read_labelme(tmp_path / "labelme"), masks)
    run_ok("export", "cvat", shapes, *exact, tmp_path / "cvat")
    check_equal(readers.read_cvat(tmp_path / "cvat", CLASSES), keep_classes(masks))
    run_ok("export", "labelstudio", shapes, "--shapes", "polygon", *exact, tmp_path / "studio")
    check_equal(readers.read_labelstudio(tmp_path / "studio", CLASSES), keep_classes(masks), whole=False)


def test_simplified_polygons_keep_their_iou_and_report_it(tmp_path):
    y, x = np.mgrid[:120, :160]
    disk = np.where(np.hypot(y - 60, x - 70) < 50.3, 1, 0).astype(np.uint8)
    disk[40:60, 60:90] = 0
    write_dataset(tmp_path, {"disk": disk})
    done = run("export", "labelme", index(tmp_path), "-o", tmp_path / "simple")
    iou, = readers.iterate_ious({"disk": disk}, readers.read_labelme(tmp_path / "simple"), ignores=False)
    assert 0.99 <= iou < 1
    reported = re.search(r"mean IoU of ([\d.]+); the worst is ([\d.]+) \(<cat & dog>, big in disk\)", done.err)
    assert 0.99 <= float(reported[1]) == float(reported[2]) <= iou, "that of the worse of two rasterisers"
    run_ok("export", "labelme", tmp_path / "index.h5", "--tolerance", "0", "-o", tmp_path / "exact")
    size = [len((tmp_path / folder / "disk.json").read_text()) for folder in ("simple", "exact")]
    assert size[0] < 0.7 * size[1]


def test_components_are_annotations_of_their_own(shapes, tmp_path):
    for more, expected in (((), 1), (("--components",), 2)):
        run_ok("export", "coco", shapes, "-o", tmp_path, "-f", "--segmentation", "polygon", "--ignored", "background",
               *more)
        content = json.loads((tmp_path / "annotations/instances_train.json").read_text())
        assert sum(annotation["image_id"] == 1 and annotation["category_id"] == 2
                   for annotation in content["annotations"]) == expected
        assert not any(annotation["iscrowd"] for annotation in content["annotations"])
    assert [category["color"] for category in content["categories"]] == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]


def test_voc_is_read_by_torchvision(tmp_path):
    masks = {name.replace("/", "_"): mask for name, mask in draw_masks().items()}
    write_dataset(tmp_path, masks, PLAIN)
    run_ok("export", "voc", index(tmp_path), "--images", "copy", "-o", tmp_path / "VOCdevkit" / "VOC2012")
    dataset = VOCSegmentation(str(tmp_path), image_set="train")
    assert len(dataset) == 3
    for (image, mask), expected in zip(dataset, masks.values(), strict=True):
        assert image.size == SIZE[::-1]
        np.testing.assert_array_equal(np.asarray(mask), expected)
    assert (tmp_path / "VOCdevkit/VOC2012/labelmap.txt").read_text().splitlines()[1:] == [
        "background:0,0,0::", "cat:128,0,0::", "tree house:0,128,0::", "été:128,128,0::", "__ignore__:224,224,192::"]


def test_png_and_mmseg_and_hf_hold_the_ids(shapes, tmp_path):
    masks = draw_masks()
    done = run("export", "png", shapes, "-o", tmp_path / "png")
    check_equal(readers.read_pngs(tmp_path / "png"), masks)
    assert "labelmap.txt is not written, because a class name contains a colon" in done.err
    run_ok("export", "mmseg", shapes, "-o", tmp_path / "mmseg")
    check_equal(readers.read_pngs(tmp_path / "mmseg/ann_dir/train"), masks)
    config = runpy.run_path(str(tmp_path / "mmseg/dataset.py"))
    assert config["metainfo"] == {"classes": CLASSES, "palette": [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]}
    dataset = config["train_dataloader"]["dataset"]
    assert (dataset["img_suffix"], dataset["reduce_zero_label"]) == (".jpg", False)
    images = tmp_path / "mmseg" / dataset["data_prefix"]["img_path"]
    assert {path.relative_to(images).as_posix() for path in images.rglob("*.jpg")} == {f"{name}.jpg" for name in IDS}
    run_ok("export", "hf", shapes, "-o", tmp_path / "hf")
    lines = (tmp_path / "hf/train/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["labels"] for record in records] == [list(CLASSES[1:]), list(CLASSES[1:]), []]
    for record in records:
        assert (tmp_path / "hf/train" / record["file_name"]).is_file()
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "hf/train" / record["mask_file_name"])),
                                      masks[record["id"]])


@pytest.mark.parametrize("name", ["png", *FORMATS])
def test_ignored_pixels_are_rejected_on_request_and_counted(shapes, tmp_path, name):
    done = run("export", name, shapes, "--ignored", "reject", "-o", tmp_path / "rejected")
    check_error(done, 65, "wsss export", "a: ", "pixels are ignored", "--ignored background")
    done = run("export", name, shapes, "--ignored", "background", "-o", tmp_path / "out")
    num_ignored = sum(int((mask == 255).sum()) for mask in draw_masks().values())
    assert f"{num_ignored} pixels (" in done.err and "written as background" in done.err
    if name == "png":
        check_equal(readers.read_pngs(tmp_path / "out"), keep_classes(draw_masks()))


@pytest.mark.parametrize("name", ["voc", "coco", "labelme", "hf"])
def test_a_second_export_is_up_to_date_and_another_needs_force(shapes, tmp_path, name):
    images = ("--images", "copy")
    paths = run_ok("export", name, shapes, *images, "-o", tmp_path)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.rglob("*") if path.is_file()}
    assert set(paths) <= {str(path) for path in before} and not [path for path in before if path.suffix == ".tmp"]
    assert run_ok("export", name, shapes, *images, "-o", tmp_path) == paths
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}
    done = run("export", name, shapes, *images, "-o", tmp_path, "-n")
    assert (done.code, done.out.splitlines()) == (0, paths) and "Would write" not in done.err
    last = Path(paths[0])
    last.write_bytes(b"of another program")
    check_error(run("export", name, shapes, *images, "-o", tmp_path), 73, str(last), "different contents", "--force")
    assert last.read_bytes() == b"of another program"
    run_ok("export", name, shapes, *images, "-o", tmp_path, "--force")
    assert last.read_bytes() == before[last][1]


@pytest.mark.parametrize("name", ["voc", "coco", "labelme", "hf"])
def test_a_dry_run_writes_nothing(shapes, tmp_path, name):
    done = run("export", name, shapes, "-o", tmp_path / "out", "-n")
    assert (done.code, done.out) == (0, "") and "Would write" in done.err
    assert not (tmp_path / "out").exists()


def test_links_lead_to_the_images(shapes, tmp_path):
    run_ok("export", "cvat", shapes, "--images", "link", "-o", tmp_path)
    links = [path for path in (tmp_path / "images").rglob("*.jpg") if path.is_symlink()]
    assert len(links) == 3
    assert (tmp_path / "images/sub/a.jpg").readlink() == shapes.parent / "images/sub/a.jpg"


def test_a_file_system_without_links(shapes, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    monkeypatch.setattr(os, "symlink", refuse)
    done = run("export", "cvat", shapes, "--images", "link", "-o", tmp_path)
    check_error(done, 73, "a.jpg", "can't be a symbolic link", "--images copy")


def test_packed_images_are_copied_and_cannot_be_linked(tmp_path):
    write_dataset(tmp_path, draw_masks())
    packed = index(tmp_path, "--pack")
    original = (tmp_path / "images/a.jpg").read_bytes()
    (tmp_path / "images/a.jpg").unlink()
    check_error(run("export", "coco", packed, "--images", "link", "-o", tmp_path / "no"), 2, "packed", "--images copy")
    run_ok("export", "coco", packed, "--images", "copy", "-o", tmp_path / "coco")
    assert (tmp_path / "coco/images/a.jpg").read_bytes() == original


def test_missing_images_fail_alone(tmp_path):
    write_dataset(tmp_path, draw_masks())
    path = index(tmp_path)
    (tmp_path / "images/a.jpg").unlink()
    done = run("export", "yolo", path, "-o", tmp_path / "yolo")
    assert done.code == 65
    assert "Skipping an image: images/a.jpg" in done.err and "1 of 3 images failed" in done.err
    assert not (tmp_path / "yolo/labels/train/a.txt").exists()
    assert (tmp_path / "yolo/labels/train/sub/a.txt").exists()
    done = run("export", "yolo", path, "-o", tmp_path / "none", "--root", tmp_path / "masks")
    check_error(done, 65, "none of the 3 images", "--root")


def write_turned_image(root: Path) -> np.ndarray:
    """Write a JPEG image of 40 x 56 with the EXIF orientation 6 (to be turned clockwise); return its stored pixels."""
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:, :28] = 200
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(root / "images/a.jpg", exif=exif, quality=100)
    return np.asarray(Image.open(root / "images/a.jpg"))


@pytest.mark.parametrize("mode", ["copy", "link"])
@pytest.mark.parametrize("applies", [True, False])
def test_images_with_an_exif_orientation_fit_their_masks_everywhere(tmp_path, applies, mode):
    masks = draw_masks()
    if applies:
        masks["a"] = np.rot90(masks["a"], -1)
    write_dataset(tmp_path, masks)
    stored = write_turned_image(tmp_path)
    path = index(tmp_path, *(("--apply-exif",) if applies else ()))
    done = run("export", "labelme", path, "--images", mode, "-o", tmp_path / "out", "--tolerance", "0")
    assert done.code == 0 and "1 of 3 images have an EXIF orientation" in done.err
    check_equal(readers.read_labelme(tmp_path / "out"), masks)
    with Image.open(tmp_path / "out/a.png") as image:
        assert image.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.asarray(image), np.rot90(stored, -1) if applies else stored)
    done = run("export", "coco", path, "-o", tmp_path / "coco")
    assert f"fits tools that {'apply' if applies else 'ignore'} it" in done.err


def test_mixed_image_formats_in_mmseg(tmp_path):
    write_dataset(tmp_path, draw_masks())
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "images/a.jpg", format="PNG")
    run_ok("export", "mmseg", index(tmp_path), "-o", tmp_path / "out")
    assert (tmp_path / "out/img_dir/train/a.png").is_file(), "the suffix is that of the contents"
    dataset = runpy.run_path(str(tmp_path / "out/dataset.py"))["train_dataloader"]["dataset"]
    assert dataset["type"] == "ConcatDataset"
    assert [part["img_suffix"] for part in dataset["datasets"]] == [".jpg", ".png"]


def test_more_than_254_classes(tmp_path):
    classes = ("background", *(f"class {number}" for number in range(1, 301)))
    mask = np.zeros((8, 9), np.uint16)
    mask[2:5, 3:6], mask[7, 8] = 300, 65535
    write_dataset(tmp_path, {"a": np.zeros((8, 9), np.uint8)}, classes)
    Image.fromarray(mask).save(tmp_path / "masks/a.png")
    path = index(tmp_path)
    check_error(run("export", "mmseg", path, "-o", tmp_path / "no"), 2, "300 classes", "254")
    run_ok("export", "hf", path, "-o", tmp_path / "hf")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "hf/train/masks/a.png")), mask)
    run_ok("export", "cvat", path, "--shapes", "mask", "-o", tmp_path / "cvat")
    assert 'label="class 300"' in (tmp_path / "cvat/annotations.xml").read_text()
    run_ok("export", "png", path, "-o", tmp_path / "png")
    lines = (tmp_path / "png/labelmap.txt").read_text().splitlines()
    assert len(lines) == 302 and len({line.split(":")[1] for line in lines[1:]}) == 301


def test_a_data_set_without_background(tmp_path, tiny_dataset):
    run_ok("index", "voc", tiny_dataset.root, "--split", "train", "--labels", tiny_dataset.root / "labels.csv",
           "--class-names", tiny_dataset.root / "classes.txt", "--no-background", "-o", tmp_path / "i.h5")
    run_ok("export", "mmseg", tmp_path / "i.h5", "-o", tmp_path / "mmseg")
    config = runpy.run_path(str(tmp_path / "mmseg/dataset.py"))
    assert config["metainfo"]["classes"] == ("cat", "dog")
    assert config["train_dataloader"]["dataset"]["reduce_zero_label"] is True
    assert not any((mask == 0).any() for mask in readers.read_pngs(tmp_path / "mmseg/ann_dir/train").values())
    check_error(run("export", "png", tmp_path / "i.h5", "--ignored", "background", "-o", tmp_path / "no"), 2,
                "needs a background")
    run_ok("export", "yolo", tmp_path / "i.h5", "-o", tmp_path / "yolo")
    assert "0: \"cat\"" in (tmp_path / "yolo/data.yaml").read_text()


def test_failed_images_and_images_without_masks(tmp_path, shapes):
    masks = draw_masks()
    items = [Item("a", {"mask": masks["a"]}), Item("sub/a", error="it is damaged")]
    done = run("export", "coco", write_masks(shapes, items, shapes.parent / "masks.h5"), "--images", "copy", "-o",
               tmp_path / "coco")
    assert done.code == 65 and "1 of 2 images failed" in done.err
    check_equal(readers.read_coco(tmp_path / "coco", CLASSES), {"a": masks["a"]})
    write_dataset(tmp_path, masks)
    (tmp_path / "masks/a.png").unlink()
    done = run("export", "coco", index(tmp_path), "--images", "copy", "-o", tmp_path / "two")
    assert done.code == 0 and "Skipped 1 images of the index that have no ground truth" in done.err
    assert set(readers.read_coco(tmp_path / "two", CLASSES)) == set(IDS[1:])


def test_an_index_without_ground_truth(tmp_path, tiny_dataset):
    run_ok("index", "table", tiny_dataset.root / "labels.csv", "--images", tiny_dataset.root / "JPEGImages", "-o",
           tmp_path / "i.h5")
    done = run("export", "coco", tmp_path / "i.h5", "-o", tmp_path / "out")
    check_error(done, 66, "no ground-truth masks", "--masks")


@pytest.mark.parametrize(("more", "code", "texts"), [
    (("coco", "--split", "a/b"), 2, ("--split 'a/b'",)), (("yolo", "--split", "mine"), 2, ("--split 'mine'",)),
    (("hf", "--images", "none"), 2, ("--images 'none'",)), (("coco", "--tolerance", "-1"), 2, ("--tolerance",)),
    (("yolo", "--ignored", "keep"), 2, ("--ignored 'keep'",))])
def test_invalid_settings(shapes, tmp_path, more, code, texts):
    name, *words = more
    check_error(run("export", name, shapes, *words, "-o", tmp_path / "out"), code, *texts)


def test_both_splits_fit_into_one_folder(shapes, tmp_path):
    for name in ("yolo", "mmseg"):
        for split in ("train", "val"):
            done = run("export", name, shapes, "--split", split, "-o", tmp_path / name)
            assert done.code == 0, done.err
            assert "with its --split" in done.err
    assert len(list((tmp_path / "yolo/images/val").rglob("*.jpg"))) == 3


def test_an_id_that_yolo_would_not_find(tmp_path):
    write_dataset(tmp_path, {"images/a": np.ones(SIZE, np.uint8)})
    check_error(run("export", "yolo", index(tmp_path), "-o", tmp_path / "out"), 2, "images/a", "folder named images")


def test_label_studio_names_images_below_a_prefix(shapes, tmp_path):
    done = run("export", "labelstudio", shapes, "--images", "copy", "--url-prefix", "s3://bucket/", "-o", tmp_path)
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [
        "s3://bucket/images/a.jpg", "s3://bucket/images/sub/a.jpg",
        "s3://bucket/images/sub/%C3%9Cberblick%201.jpg"]
    assert "below the output folder" in done.err
