"""Ground truth from COCO files: what `index coco` draws is what pycocotools draws, and all stages use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from cli.runner import TRAINING, check_error, list_messages, run, run_ok
from stages.data.image_source import ImageSource
from stages.shards import Shard, ShardContents, write_shard
from stages.shards.items import Item
from tiny_datasets import create_dataset

HEIGHT, WIDTH = 40, 60
SQUARE = [5.0, 5.0, 25.0, 5.0, 25.0, 25.0, 5.0, 25.0]
INNER = [10.2, 10.7, 20.1, 11.3, 14.9, 21.6]
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with the photographs a.png and b.png of 40 x 60."""
    (tmp_path / "photos").mkdir()
    for number, name in enumerate("ab"):
        pixels = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


def build_content(*annotations: dict, **changes: Any) -> dict[str, Any]:
    images = [{"id": number, "file_name": f"{name}.png", "height": HEIGHT, "width": WIDTH}
              for number, name in enumerate("ab", 1)]
    listed = [{"id": number, "image_id": 1, "category_id": 3, "iscrowd": 0, **annotation}
              for number, annotation in enumerate(annotations, 100)]
    return {"images": images, "annotations": listed, "categories": CATEGORIES, **changes}


def index_coco(photos: Path, content: Any, *more: object, name: str = "instances.json"):
    path = photos.parent / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return run("index", "coco", path, "--images", photos, "-o", photos.parent / "i.h5", "-f", *more)


def read_masks(photos: Path) -> dict[str, np.ndarray | None]:
    source = ImageSource(Shard(photos.parent / "i.h5"))
    return {name: source.read_mask(name) if source.has_mask(name) else None for name in source.index.ids}


def read_labels(photos: Path) -> dict[str, tuple[int, ...] | None]:
    source = ImageSource(Shard(photos.parent / "i.h5"))
    return {name: source.read_labels(name) for name in source.index.ids}


def encode(region: np.ndarray, *, is_compressed: bool) -> dict[str, Any]:
    """Return the RLE of a region; the counts of an uncompressed one are found pixel by pixel."""
    if is_compressed:
        rle = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
        return {"size": list(region.shape), "counts": rle["counts"].decode()}
    counts, value = [0], False
    for pixel in region.T.ravel().tolist():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    return {"size": list(region.shape), "counts": counts}


def draw(polygon: list[float]) -> np.ndarray:
    return coco_mask.decode(coco_mask.frPyObjects([polygon], HEIGHT, WIDTH))[..., 0] > 0


def test_polygons_and_both_forms_of_rle_are_drawn_as_by_pycocotools(photos):
    random = np.random.default_rng(0)
    region = random.random((HEIGHT, WIDTH)) < 0.3
    annotations = [{"segmentation": [SQUARE]}, {"segmentation": [INNER], "category_id": 18},
                   {"segmentation": encode(region, is_compressed=True), "image_id": 2},
                   {"segmentation": encode(~region, is_compressed=False), "image_id": 2, "category_id": 18}]
    done = index_coco(photos, build_content(*annotations))
    assert done.code == 0, done.err
    assert "2 of 2 images get a ground-truth mask from the outlines" in done.err
    truth = COCO(str(photos.parent / "instances.json"))
    square, inner, *regions = (truth.annToMask(truth.anns[number]) > 0 for number in (100, 101, 102, 103))
    masks = read_masks(photos)
    np.testing.assert_array_equal(masks["a"], np.where(inner, 2, square))
    np.testing.assert_array_equal(masks["b"], np.where(regions[0], 1, 2))
    assert not (regions[0] & regions[1]).any()
    assert read_labels(photos) == {"a": (1, 2), "b": (1, 2)}


def test_smaller_objects_cover_larger_ones_whatever_the_order(photos):
    objects = [{"segmentation": [INNER], "category_id": 18}, {"segmentation": [SQUARE]}]
    for ordered in (objects, objects[::-1]):
        assert index_coco(photos, build_content(*ordered)).code == 0
        np.testing.assert_array_equal(read_masks(photos)["a"], np.where(draw(INNER), 2, draw(SQUARE)))


def test_a_crowd_is_ignored_where_no_other_object_is(photos):
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[8:30, 8:50] = True
    index_coco(photos, build_content({"segmentation": encode(crowd, is_compressed=False), "iscrowd": 1},
                                     {"segmentation": [SQUARE], "category_id": 18}))
    np.testing.assert_array_equal(read_masks(photos)["a"], np.where(draw(SQUARE), 2, np.where(crowd, 255, 0)))
    assert read_labels(photos)["a"] == (1, 2)
    assert not read_masks(photos)["b"].any()
    # A crowd is below other objects even if it is smaller.
    small_crowd = {"segmentation": [[8, 8, 40, 8, 40, 12]], "iscrowd": 1}
    index_coco(photos, build_content({"segmentation": [SQUARE], "category_id": 18}, small_crowd))
    np.testing.assert_array_equal(read_masks(photos)["a"], np.where(
        draw(SQUARE), 2, 255 * draw([8, 8, 40, 8, 40, 12])))


def test_many_polygons_of_an_object_are_joined(photos):
    other = [30.5, 2.0, 55.0, 3.0, 40.0, 39.0]
    index_coco(photos, build_content({"segmentation": [SQUARE, other, INNER]}))
    np.testing.assert_array_equal(read_masks(photos)["a"], draw(SQUARE) | draw(other) | draw(INNER))


def test_more_than_254_classes_make_masks_of_16_bits(photos):
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, 301)]
    crowd = {"segmentation": [[40, 2, 55, 3, 50, 39]], "iscrowd": 1}
    index_coco(photos, build_content({"segmentation": [SQUARE], "category_id": 300}, crowd, categories=categories))
    mask = read_masks(photos)["a"]
    assert mask.dtype == np.uint16 and set(np.unique(mask)) == {0, 300, 65535}


def test_an_image_with_a_box_only_has_tags_but_no_mask(photos):
    box = {"bbox": [1, 1, 5, 5], "area": 25}
    for segmentation in ({}, {"segmentation": []}, {"segmentation": None}):
        done = index_coco(photos, build_content({"segmentation": [SQUARE]}, {**box, **segmentation, "image_id": 2}))
        assert done.code == 0
        assert "1 of 2 images have an object without an outline (a box only)" in done.err
        assert read_masks(photos)["b"] is None and read_masks(photos)["a"].any()
    done = index_coco(photos, build_content({**box, "keypoints": [3, 3, 2], "num_keypoints": 1}))
    assert "have an object without an outline" in done.err and "get a ground-truth" not in done.err
    assert read_masks(photos) == {"a": None, "b": None} and read_labels(photos) == {"a": (1,), "b": ()}


def test_masks_are_not_drawn_on_request_and_a_folder_of_masks_wins(photos):
    content = build_content({"segmentation": [SQUARE]})
    for option in ("--no-draw-masks", "--tags-only"):
        done = index_coco(photos, content, option)
        assert done.code == 0 and "ground-truth" not in done.err
        assert read_masks(photos) == {"a": None, "b": None}
    (photos.parent / "masks").mkdir()
    folder_mask = np.full((HEIGHT, WIDTH), 1, np.uint8)
    Image.fromarray(folder_mask).save(photos.parent / "masks" / "a.png")
    assert index_coco(photos, content, "--masks", photos.parent / "masks").code == 0
    np.testing.assert_array_equal(read_masks(photos)["a"], folder_mask)
    assert read_masks(photos)["b"] is None


def test_several_files_are_joined_by_file_name_and_by_the_names_of_categories(photos):
    first = build_content({"segmentation": [SQUARE]})
    first["images"] = first["images"][:1]
    second = build_content({"image_id": 1, "category_id": 1, "segmentation": [INNER]},
                           {"image_id": 1, "category_id": 2, "segmentation": [SQUARE]},
                           categories=[{"id": 1, "name": "dog"}, {"id": 2, "name": "horse"}])
    second["images"] = [{**second["images"][1], "id": 1}]
    texts = {"images": [{"id": 9, "file_name": "a.png"}], "annotations": [{"image_id": 9, "caption": "a  cat"}]}
    (photos.parent / "b.json").write_text(json.dumps(second))
    (photos.parent / "c.json").write_text(json.dumps(texts))
    (photos.parent / "a.json").write_text(json.dumps(first))
    run_ok("index", "coco", *(photos.parent / f"{name}.json" for name in "abc"), "--images", photos, "-o",
           photos.parent / "i.h5")
    shard = Shard(photos.parent / "i.h5")
    assert shard.classes == ("background", "cat", "dog", "horse")
    assert read_labels(photos) == {"a": (1,), "b": (2, 3)}
    assert shard.item("a").datasets["captions"].tolist() == [b"a cat"]
    np.testing.assert_array_equal(read_masks(photos)["b"], np.where(draw(INNER), 2, 3 * draw(SQUARE)))
    done = run("index", "coco", *[photos.parent / "a.json"] * 2, "--images", photos, "-o", photos.parent / "j.h5")
    check_error(done, 65, "a.json", "passed twice")


@pytest.mark.parametrize(("segmentation", "messages"), [
    ([[1, 2, 3, 4]], ("2 points", "at least 3")),
    ([[1, 2, 3, 4, 5]], ("5 numbers", "pairs")),
    ([[1, 2, 3, 4, 5, 6, 7]], ("7 numbers", "pairs")),
    ([[1, 2, 3, float("nan"), 5, 6]], ("coordinate nan",)),
    ([[1, 2, 3, float("inf"), 5, 6]], ("coordinate inf",)),
    ([[1, 2, 3, 1e12, 5, 6]], ("corner (3, 1e+12)", "outside the image of 60x40")),
    ([[70, 2, 75, 9, 71, 6]], ("corner (70, 2)", "outside the image")),
    (encode(np.ones((30, 60), bool), is_compressed=True), ("30x60", "40x60")),
    (encode(np.ones((60, 40), bool), is_compressed=False), ("60x40", "40x60", "--apply-exif")),
    ({"size": [HEIGHT, WIDTH], "counts": [10, 20]}, ("30 pixels", "40x60 = 2400")),
    ({"size": [HEIGHT, WIDTH], "counts": [0, 4294967295]}, ("4294967295 pixels",)),
    ({"size": [HEIGHT, WIDTH], "counts": "!!"}, ("compressed text",)),
    ({"size": [HEIGHT, WIDTH], "counts": "oooooooooooooo0"}, ("too large",)),
    ({"size": [HEIGHT, WIDTH], "counts": "\u00e9"}, ("compressed text",)),
])
def test_an_image_with_an_invalid_outline_fails_alone(photos, segmentation, messages):
    content = build_content({"segmentation": segmentation}, {"segmentation": [SQUARE], "image_id": 2})
    done = index_coco(photos, content)
    assert done.code == 65 and "1 of 2 images failed" in done.err
    errors = Shard(photos.parent / "i.h5").errors
    assert list(errors) == ["a"]
    for message in ("instances.json: annotations[0] (id 100)", *messages):
        assert message in errors["a"], errors["a"]
    assert index_coco(photos, content, "--allow-errors", "1").code == 0
    assert index_coco(photos, content, "--no-draw-masks").code == 0


@pytest.mark.parametrize(("changes", "messages"), [
    ({"segmentation": [["1", 2, 3, 4, 5, 6]]}, ("annotations[0] (id 100)", "not a list of polygons")),
    ({"segmentation": [1, 2, 3, 4, 5, 6]}, ("not a list of polygons", "[[x1, y1")),
    ({"segmentation": [[[1, 2], [3, 4], [5, 6]]]}, ("not a list of polygons",)),
    ({"segmentation": "mask.png"}, ("not a list of polygons", "mask.png")),
    ({"segmentation": {"counts": [1]}}, ("size None",)),
    ({"segmentation": {"size": [1, 2.5], "counts": [1]}}, ("size [1, 2.5]",)),
    ({"segmentation": {"size": [40, 60], "counts": [1, -2]}}, ("counts [1, -2]",)),
    ({"segmentation": {"size": [40, 60]}}, ("counts None",)),
    ({"category_id": None}, ("annotations[0] (id 100) has no category_id",)),
    ({"category_id": True}, ("annotations[0] has True as category_id",)),
    ({"category_id": 3.5}, ("annotations[0] has 3.5 as category_id",)),
    ({"category_id": 4}, ("category 4",)),
    ({"image_id": "c"}, ("image c",)),
    ({"iscrowd": "yes"}, ("'yes' as iscrowd",)),
])
def test_other_annotations_are_rejected_by_name(photos, changes, messages):
    check_error(index_coco(photos, build_content({"segmentation": [SQUARE], **changes})), 65, "instances.json",
                *messages)


def test_an_annotation_without_a_category_is_rejected(photos):
    content = build_content({"segmentation": [SQUARE]})
    del content["annotations"][0]["category_id"]
    check_error(index_coco(photos, content), 65, "annotations[0] (id 100) has no category_id")


IMAGE = {"id": 1, "file_name": "a.png"}


@pytest.mark.parametrize(("changes", "messages"), [
    ({"images": [IMAGE, {"id": 1, "file_name": "b.png"}]}, ("two images have the id 1 (images[0] and images[1])",)),
    ({"images": [IMAGE, {**IMAGE, "id": "1"}]}, ("two images have the id 1",)),
    ({"images": [IMAGE, {"id": 2, "file_name": "a.png"}]}, ("image 2", "a.png", "another entry")),
    ({"images": [{"id": 1}]}, ("image 1 lacks file_name",)),
    ({"images": [{"id": 1, "file_name": None}]}, ("image 1 lacks file_name",)),
    ({"images": [{"id": 1, "file_name": 7}]}, ("image 1 has 7 as file_name",)),
    ({"images": [{"id": 1.5, "file_name": "a.png"}]}, ("images[0] has 1.5 as id",)),
    ({"images": [{**IMAGE, "height": -1, "width": 60}]}, ("image 1 has the height -1",)),
    ({"images": [{"id": 1, "file_name": "/else/where.png"}]}, ("leads out",)),
    ({"categories": [{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]}, ("two categories have the id 3 (",)),
    ({"categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "cat"}]}, ("categories[1] has the name 'cat'",)),
    ({"categories": [{"id": 3, "name": "cat"}, {"id": 4, "name": "Cat"}]}, ("categories[1] has the name 'Cat'",)),
    ({"categories": [{"id": 3, "name": None}]}, ("categories[0] has the name None",)),
    ({"categories": [{"id": 3, "name": 5}]}, ("categories[0] has the name 5",)),
    ({"categories": [{"id": 3, "supercategory": "animal"}]}, ("categories[0] lacks name",)),
])
def test_ambiguous_images_and_categories_are_rejected(photos, changes, messages):
    check_error(index_coco(photos, build_content({"segmentation": [SQUARE]}, **changes)), 65, "instances.json",
                *messages)


def test_a_key_that_occurs_twice_is_rejected(photos):
    check_error(index_coco(photos, '{"images": [], "images": [{"id": 1, "file_name": "a.png"}]}'), 65,
                "the key 'images' twice")


def test_ids_as_texts_and_decimals_are_matched(photos):
    content = build_content({"segmentation": [SQUARE], "image_id": "1", "category_id": 18.0},
                            {"segmentation": [INNER], "image_id": 2.0, "category_id": "3"})
    done = index_coco(photos, content)
    assert done.code == 0 and "were matched as whole numbers: 4." in done.err
    assert read_labels(photos) == {"a": (2,), "b": (1,)}


@pytest.mark.parametrize("name", ["background", "Background", "_background_", "BG"])
def test_a_background_category_is_the_background(photos, name):
    categories = [{"id": 0, "name": name}, {"id": 1, "name": "cat"}]
    done = index_coco(photos, build_content({"segmentation": [SQUARE], "category_id": 1},
                                            {"segmentation": [INNER], "category_id": 0}, categories=categories))
    assert done.code == 0 and f"The label {name!r} is the background, not a class." in done.err
    assert Shard(photos.parent / "i.h5").classes == ("background", "cat")
    np.testing.assert_array_equal(read_masks(photos)["a"], draw(SQUARE) & ~draw(INNER))
    assert read_labels(photos)["a"] == (1,)


def test_void_objects_are_ignored(photos):
    categories = [{"id": 0, "name": "void"}, {"id": 1, "name": "cat"}]
    done = index_coco(photos, build_content({"segmentation": [SQUARE], "category_id": 1},
                                            {"segmentation": [INNER], "category_id": 0}, categories=categories))
    assert "'void' is not a class; its pixels are ignored" in done.err
    np.testing.assert_array_equal(read_masks(photos)["a"], np.where(draw(INNER), 255, draw(SQUARE)))


def test_category_0_is_a_class(photos):
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    assert index_coco(photos, build_content({"segmentation": [SQUARE], "category_id": 0},
                                            categories=categories)).code == 0
    assert Shard(photos.parent / "i.h5").classes == ("background", "cat", "dog")
    assert read_labels(photos)["a"] == (1,)


def test_the_project_category_of_roboflow_is_dropped(photos):
    categories = [{"id": 0, "name": "my-pets", "supercategory": "none"},
                  {"id": 1, "name": "cat", "supercategory": "my-pets"}]
    content = build_content({"segmentation": [SQUARE], "category_id": 1}, categories=categories)
    (photos / "_annotations.coco.json").write_text(json.dumps(content))
    done = run("index", "coco", photos / "_annotations.coco.json", "-o", photos.parent / "i.h5")
    assert done.code == 0 and "Dropped the category 'my-pets' (id 0)" in done.err
    assert Shard(photos.parent / "i.h5").classes == ("background", "cat")
    content["annotations"][0]["category_id"] = 0
    assert "Dropped" not in index_coco(photos, content).err
    assert Shard(photos.parent / "i.h5").classes == ("background", "my-pets", "cat")


@pytest.mark.parametrize("name", ["/data/old machine/photos/a.png", "C:\\old\\photos\\a.png", "photos\\a.png",
                                  "http://images.org/photos/a.png?size=big", "https://images.org/a.png"])
def test_paths_of_another_place_are_found_by_their_end(photos, name):
    content = build_content({"segmentation": [SQUARE]})
    content["images"][0]["file_name"] = name
    done = index_coco(photos, content)
    assert done.code == 0 and "1 of 2 images are listed by a path or an address of another place" in done.err
    assert read_labels(photos) == {"a": (1,), "b": ()}


def test_lvis_names_its_images_by_address(photos):
    content = build_content({"segmentation": [SQUARE]})
    content["images"][0] = {"id": 1, "coco_url": "http://images.org/a.png"}
    assert index_coco(photos, content).code == 0
    assert read_masks(photos)["a"].any()


def test_a_list_of_detections_and_a_panoptic_file_are_named(photos):
    results = [{"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [1, 2, 3, 4]}]
    check_error(index_coco(photos, results, name="results.json"), 65, "list of detections", "wsss import coco")
    panoptic = build_content()
    panoptic["annotations"] = [{"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 5, "category_id": 3}]}]
    check_error(index_coco(photos, panoptic, name="panoptic.json"), 65, "panoptic file", "--masks DIR")


def test_a_file_without_annotations_does_not_say_that_images_are_empty(photos):
    content = build_content()
    del content["annotations"]
    index_coco(photos, content)
    assert read_labels(photos) == {"a": None, "b": None}


def test_annotations_for_another_size_are_rejected(photos):
    content = build_content({"segmentation": [SQUARE]})
    content["images"][0].update(height=80, width=120)
    assert index_coco(photos, content).code == 65
    assert "drawn on an image of 80x120 pixels (height x width), but the image has 40x60" in Shard(
        photos.parent / "i.h5").errors["a"]


def test_the_index_is_the_same_when_it_is_made_again(photos):
    content = build_content({"segmentation": [SQUARE]}, {"segmentation": [INNER], "category_id": 18})
    index_coco(photos, content)
    before = (photos.parent / "i.h5").read_bytes()
    again = run("index", "coco", photos.parent / "instances.json", "--images", photos, "-o", photos.parent / "i.h5")
    assert "up to date" in again.err and (photos.parent / "i.h5").read_bytes() == before


def test_a_perfect_prediction_scores_1_and_a_network_is_trained_on_drawn_masks(tmp_path):
    data = create_dataset(tmp_path / "set", n=4)
    masks = {name: np.asarray(Image.open(data.root / "SegmentationClass" / f"{name}.png")) for name in data.ids}
    annotations = [{"image_id": number, "category_id": value if value != 255 else 1, "iscrowd": int(value == 255),
                    "segmentation": encode(masks[name] == value, is_compressed=value % 2 == 0)}
                   for number, name in enumerate(data.ids) for value in np.unique(masks[name]).tolist() if value]
    content = {"images": [{"id": number, "file_name": f"{name}.jpg"} for number, name in enumerate(data.ids)],
               "annotations": annotations, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    (tmp_path / "i.json").write_text(json.dumps(content))
    run_ok("index", "coco", tmp_path / "i.json", "--images", data.root / "JPEGImages", "-o", tmp_path / "i.h5")
    index = Shard(tmp_path / "i.h5")
    items = [Item(name, {"mask": np.where(masks[name] == 255, 0, masks[name])}, {}) for name in data.ids]
    write_shard(tmp_path / "predicted.h5", ShardContents(
        "masks", index.classes, items, index_digest=index.digest, index_path="i.h5"))
    result = json.loads("\n".join(run_ok("eval", tmp_path / "predicted.h5", "--index", tmp_path / "i.h5", "--json")))
    assert result["miou"] == 1.0 and result["images"] == 4
    run_ok("train-seg", tmp_path / "i.h5", "--masks", "truth", *TRAINING, "-o", tmp_path / "seg.safetensors")
    run_ok("show", tmp_path / "predicted.h5", "--index", tmp_path / "i.h5", "-o", tmp_path / "sheet.png")
    assert list_messages(run("check", tmp_path / "i.h5")) == []
