"""`wsss index` compares ground-truth masks with tags, and stops if they contradict each other."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from cli.runner import SMALL, check_error, copy_dataset, index_table, list_messages, run, run_ok
from stages.data.image_source import ImageSource
from stages.data.index_summary import read_summary
from stages.shards import Shard
from tiny_datasets import build_voc_palette, save_mask

CAT, DOG = (64, 0, 0), (64, 0, 128)  # ids 8 and 12 of VOC


@pytest.fixture
def root(tiny_dataset, tmp_path):
    return copy_dataset(tiny_dataset, tmp_path / "set")


def read_masks(root) -> dict[str, np.ndarray]:
    masks = {}
    for path in sorted((root / "SegmentationClass").iterdir()):
        with Image.open(path) as image:
            masks[path.stem] = np.asarray(image).copy()
    return masks


def change_masks(root, change, count: int = 99) -> None:
    """Replace the ids of the first `count` masks by `change(ids)`: an array of ids, or an image."""
    for name, ids in list(read_masks(root).items())[:count]:
        changed, path = change(ids), root / "SegmentationClass" / f"{name}.png"
        if isinstance(changed, Image.Image):
            changed.save(path)
        else:
            save_mask(changed, path)


def swap_classes(ids):
    return np.array([0, 2, 1, *range(3, 256)], np.uint8)[ids]


def shift_objects(offset: int):
    return np.array([0, 1 + offset, 2 + offset, *range(3, 256)], np.uint8)


def colour(ids, colours) -> np.ndarray:
    """Return ids (H, W) as colours (H, W, 3); ignored pixels are VOC's."""
    table = np.zeros((256, 3), np.uint8)
    table[1:1 + len(colours)], table[255] = colours, (224, 224, 192)
    return table[ids]


def tag_all_as(root, name: str) -> None:
    ids = [path.stem for path in sorted((root / "JPEGImages").iterdir())]
    (root / "labels.csv").write_text("id,labels\n" + "".join(f"{image_id},{name}\n" for image_id in ids))


def extract_suggestion(message: str) -> str:
    """Return the value of --mask-values that a message suggests, without the quotes of the shell."""
    found = re.search(r"--mask-values ('[^']*'|\S+)(?=,? or |\.)", message)
    assert found, message
    return found[1].strip("',")


def check_suggestion(root, tmp_path, expected: dict[str, np.ndarray], *texts: str) -> str:
    """Check that `index` fails, and that with its suggestion it succeeds and reads the `expected` masks."""
    message = check_error(index_table(root, tmp_path / "no.h5"), 65, *texts)
    suggestion = extract_suggestion(message)
    done = index_table(root, tmp_path / "i.h5", "--mask-values", suggestion)
    assert done.code == 0 and list_messages(done) == [], done.err
    source = ImageSource(Shard(tmp_path / "i.h5"))
    for name, ids in expected.items():
        np.testing.assert_array_equal(source.read_mask(name), ids)
    return suggestion


def test_masks_that_agree_give_no_message(root, tmp_path):
    done = index_table(root, tmp_path / "i.h5")
    assert done.code == 0 and list_messages(done) == []


def test_swapped_ids_are_found(root, tmp_path):
    expected = read_masks(root)
    change_masks(root, swap_classes)
    message = check_error(index_table(root, tmp_path / "i.h5", "--allow-errors", "100%"), 65,
                          "the masks of 8 of 12 images contradict their tags",
                          "picture_000: tags cat; mask dog (", "% of the pixels)", "--allow-contradictions")
    assert message.count("tags ") >= 3
    assert not (tmp_path / "i.h5").exists()
    assert check_suggestion(root, tmp_path, expected) in ("2=cat,1=dog", "1=dog,2=cat")
    assert Shard(tmp_path / "i.h5").provenance[-1]["config"]["mask_values"] == "1=2,2=1"


def test_ids_that_are_too_high_by_one_are_found(root, tmp_path):
    expected = read_masks(root)
    change_masks(root, lambda ids: shift_objects(1)[ids])
    assert check_suggestion(root, tmp_path, expected, "1 too high", "values that are no class: 3") == "2=cat,3=dog"


def test_ids_from_zero_are_found(root, tmp_path):
    change_masks(root, lambda ids: np.where(ids == 0, 255, ids - (ids < 255)).astype(np.uint8))
    expected = {name: np.where(ids == 255, 255, ids + 1).astype(np.uint8) for name, ids in read_masks(root).items()}
    assert check_suggestion(root, tmp_path, expected, "1 too low") == "0=cat,1=dog"


def test_masks_of_0_and_255_with_one_class(root, tmp_path):
    tag_all_as(root, "cat")
    change_masks(root, lambda ids: np.where(ids > 0, 255, 0).astype(np.uint8))
    expected = {name: (ids == 255).astype(np.uint8) for name, ids in read_masks(root).items()}
    suggestion = check_suggestion(root, tmp_path, expected, "255 is the ignore index", "mask no class, but 255 (")
    assert suggestion == "255=cat"


@pytest.mark.parametrize("value", [255, 1])
def test_one_value_for_objects_of_all_classes_is_explained(root, tmp_path, value):
    change_masks(root, lambda ids: np.where(ids > 0, value, 0).astype(np.uint8))
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("cat", "dog", 2))
    message = check_error(index_table(root, tmp_path / "i.h5"), 65, f"the single value {value}", "with its class id")
    assert "--mask-values" not in message


def test_masks_of_0_and_1_with_another_class_id(root, tmp_path):
    tag_all_as(root, "dog")
    change_masks(root, lambda ids: (ids > 0).astype(np.uint8))
    expected = {name: ids * 2 for name, ids in read_masks(root).items()}
    assert check_suggestion(root, tmp_path, expected, "tags dog; mask cat") == "1=dog"


def test_grey_levels_are_found(root, tmp_path):
    expected = {name: np.where(ids == 255, 0, ids) for name, ids in read_masks(root).items()}
    change_masks(root, lambda ids: Image.fromarray(np.array([0, 127, 255, *[0] * 253], np.uint8)[ids]))
    suggestion = check_suggestion(root, tmp_path, expected, "127", "values that are no class")
    assert suggestion == "127=cat,255=dog"


def test_other_colours_are_found(root, tmp_path):
    expected = read_masks(root)
    change_masks(root, lambda ids: Image.fromarray(colour(ids, [(255, 0, 0), (0, 0, 255)])))
    suggestion = check_suggestion(root, tmp_path, expected, "#FF0000", "values that are no class")
    assert dict(pair.split("=") for pair in suggestion.split(",")) == {
        "#000000": "background", "#FF0000": "cat", "#0000FF": "dog", "#E0E0C0": "ignore"}
    assert Shard(tmp_path / "i.h5").provenance[-1]["config"]["mask_values"] == (
        "#000000=0,#0000FF=2,#E0E0C0=ignore,#FF0000=1")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_label_map_of_cvat_says_what_colours_mean(root, tmp_path, mode):
    expected = read_masks(root)
    change_masks(root, lambda ids: Image.fromarray(colour(ids, [(250, 50, 83), (36, 179, 83)])).convert(
        mode, palette=Image.Palette.ADAPTIVE))
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:250,50,83::\n"
                                           "dog:36,179,83::\nignore:224,224,192::\n")
    done = index_table(root, tmp_path / "i.h5", "--mask-values", tmp_path / "labelmap.txt")
    assert done.code == 0, done.err
    source = ImageSource(Shard(tmp_path / "i.h5"))
    for name, ids in expected.items():
        np.testing.assert_array_equal(source.read_mask(name), ids)
    assert "labelmap" not in str(source.index.provenance)


def test_a_palette_with_vocs_colours_at_other_indices(root, tmp_path):
    """Reduced palettes order colours by frequency, so that an index means another class in every file."""
    expected = read_masks(root)

    def reduce_palette(ids):
        image = Image.fromarray(np.searchsorted(np.unique(ids), ids).astype(np.uint8))
        image.putpalette(colour(np.unique(ids), [CAT, DOG]).ravel().tolist())
        return image

    change_masks(root, reduce_palette)
    suggestion = check_suggestion(root, tmp_path, expected, "VOC's colours at other indices")
    assert "#400000=cat" in suggestion and "#E0E0C0=ignore" in suggestion


def test_a_palette_with_vocs_colours_and_ids_that_agree_is_used_as_it_is(root, tmp_path):
    def colour_as_cat_and_dog(ids):
        image, palette = Image.fromarray(ids), build_voc_palette()
        palette[3:9] = [*CAT, *DOG]
        image.putpalette(palette)
        return image

    change_masks(root, colour_as_cat_and_dog)
    done = index_table(root, tmp_path / "i.h5")
    assert done.code == 0 and list_messages(done) == []


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_objects_in_the_alpha_channel_are_rejected(root, tmp_path, mode):
    def draw_in_alpha(ids):
        image = Image.new(mode, ids.shape[::-1])
        image.putalpha(Image.fromarray(np.where(ids > 0, 255, 0).astype(np.uint8)))
        return image

    change_masks(root, draw_in_alpha)
    done = index_table(root, tmp_path / "i.h5")
    assert done.code == 65
    assert "12 of 12 images were rejected" in done.err and "objects are in the alpha channel" in done.err


def test_colours_under_transparent_pixels_are_rejected(root, tmp_path):
    def hide_objects(ids):
        image = Image.fromarray(colour(ids, [(128, 0, 0), (0, 128, 0)])).convert("RGBA")
        image.putalpha(Image.fromarray(np.where(ids == 0, 255, 0).astype(np.uint8)))
        return image

    change_masks(root, hide_objects, 1)
    done = index_table(root, tmp_path / "i.h5")
    assert done.code == 65 and "where it is fully transparent" in done.err


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_smooth_edges_are_named(root, tmp_path, mode):
    def smooth(ids):
        image = Image.fromarray(np.where((ids > 0) & (ids < 255), 255, 0).astype(np.uint8))
        grey = image.resize((31, 23), Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)
        return grey if mode == "L" else Image.merge("RGB", [grey, Image.new("L", grey.size), Image.new("L", grey.size)])

    change_masks(root, smooth)
    check_error(index_table(root, tmp_path / "i.h5"), 65, "anti-aliased", "nearest neighbour")


def test_empty_masks_of_tagged_images_contradict_them(root, tmp_path):
    change_masks(root, np.zeros_like)
    check_error(index_table(root, tmp_path / "i.h5"), 65, "12 of 12", "tags cat; mask no class", "look at a mask")


def test_masks_in_which_everything_is_ignored_are_no_contradiction(root, tmp_path):
    change_masks(root, lambda ids: np.full_like(ids, 255), 11)
    done = index_table(root, tmp_path / "i.h5")
    assert done.code == 0 and "contradict" not in done.err


def test_a_class_that_no_mask_shows_is_named(root, tmp_path):
    change_masks(root, lambda ids: np.where(ids == 2, 255, ids).astype(np.uint8))
    done = index_table(root, tmp_path / "i.h5", "--allow-contradictions")
    assert done.code == 0 and "No mask shows dog (8 images), although it is tagged." in done.err


def test_values_beyond_the_classes_in_most_masks_stop_the_command(root, tmp_path):
    (root / "labels.csv").write_text("id,labels\n" + "".join(f"{name},\n" for name in read_masks(root)))
    change_masks(root, lambda ids: np.where(ids == 1, 7, np.where(ids == 2, 9, ids)).astype(np.uint8))
    check_error(index_table(root, tmp_path / "i.h5", "--no-tags"), 65, "values that are no class: ", "7", "9", "0..2",
                "1 cat, 2 dog")
    done = index_table(root, tmp_path / "i.h5", "--no-tags", "--allow-contradictions")
    assert done.code == 65 and "12 of 12 images were rejected" in done.err


def test_contradictions_can_be_allowed_and_later_commands_repeat_them(root, tmp_path, tiny_net):
    change_masks(root, swap_classes)
    index = tmp_path / "i.h5"
    done = index_table(root, index, "--allow-contradictions")
    finding = next(line for line in done.err.splitlines() if "contradict" in line)
    assert done.code == 0 and ", for example picture_000: tags cat; mask dog (" in finding
    assert Shard(index).provenance[-1]["config"]["allow_contradictions"] is True
    run_ok("cams", "cnn", index, "--net", tiny_net, "-o", tmp_path / "cams", *SMALL)
    scored = run("eval", tmp_path / "cams")
    assert scored.code == 0 and scored.err.count(finding) == 1
    trained = run("train-seg", index, "--masks", "truth", "--net", "wsss:tiny", "--crop-size", "32", "--epochs", "1",
                  "--batch-size", "4", "--threads", "1", "--device", "cpu", "-o", tmp_path / "seg.safetensors")
    assert trained.code == 0 and trained.err.count(finding) == 1


def test_a_few_contradictions_are_reported_in_one_line(root, tmp_path):
    change_masks(root, swap_classes, 1)
    done = index_table(root, tmp_path / "i.h5")
    assert done.code == 0
    assert [line for line in list_messages(done) if "The masks of 1 of 12 images contradict" in line] == (
        list_messages(done))


def test_labels_from_masks_agree_with_them(root, tmp_path):
    change_masks(root, lambda ids: shift_objects(1)[ids])
    words = ("index", "voc", root, "--split", "train", "--labels-from-masks", "-o", tmp_path / "i.h5")
    assert run(*words, "--mask-values", "2=cat,3=dog").code == 0
    tags = [ImageSource(Shard(tmp_path / "i.h5")).read_labels(name) for name in ("picture_000", "picture_001")]
    assert tags == [(1,), (2,)]


@pytest.mark.parametrize(("values", "texts"), [
    ("255=bird", ("'bird' is not a class", "cat, dog")), ("cat", ("'cat' is neither FROM=TO nor a file",)),
    ("red=cat", ("'red' is neither a value", "#FF0000=cat")), ("1=cat,1=dog", ("1 is given twice",)),
    ("1=cat,#FF0000=dog", ("values and colours are mixed",)), ("1=", ("'1=' is not FROM=TO",)),
    ("70000=cat", ("'70000' is neither a value",)), ("1=3", ("'3' is not a class", "0 to 2"))])
def test_mask_values_that_make_no_sense(root, tmp_path, values, texts):
    check_error(index_table(root, tmp_path / "i.h5", "--mask-values", values), 2, "--mask-values", *texts)


def test_a_file_of_mask_values_is_checked_line_by_line(root, tmp_path):
    path = tmp_path / "map.txt"
    path.write_text("# values\n1=cat\n\n2=bird\n")
    check_error(index_table(root, tmp_path / "i.h5", "--mask-values", path), 65, f"{path}:4", "'bird' is not a class")
    path.write_text("cat:300,0,0::\n")
    check_error(index_table(root, tmp_path / "i.h5", "--mask-values", path), 65, f"{path}:1", "300,0,0")


def test_the_summary_is_shown_written_and_stored(root, tmp_path):
    (root / "labels.csv").write_text((root / "labels.csv").read_text().replace("picture_000,cat", "picture_000,"))
    (root / "SegmentationClass" / "picture_000.png").unlink()
    (root / "JPEGImages" / "picture_001.jpg").write_bytes(b"")
    (root / "JPEGImages" / "extra.jpg").write_bytes(b"")
    output = tmp_path / "new" / "s.json"
    done = index_table(root, tmp_path / "i.h5", "--allow-errors", "1", "--summary-json", output)
    assert done.code == 0
    lines = done.err.splitlines()
    assert "Summary of the index: 12 images, 2 classes, 10 masks" in lines
    assert "  size (height x width): smallest 48x64, median 48x64, largest 48x64" in lines
    assert "  known to show no class: 1 image" in lines and "  without mask: 1 image" in lines
    assert f"  skipped: 1 file in {root}/JPEGImages is not in {root}/labels.csv (extra.jpg)." in lines
    masks = np.concatenate([ids.ravel() for name, ids in read_masks(root).items() if name != "picture_001"])
    shares = {name: round(float(np.mean(masks == value)), 6) for value, name in enumerate(["background", "cat", "dog"])}
    summary = json.loads(output.read_text())
    assert summary["pixel_shares"] == shares and summary["ignored_share"] == round(float(np.mean(masks == 255)), 6)
    assert summary["class_images"] == {"cat": 7, "dog": 7}
    assert list(summary["failures"]) == ["picture_001"] and "extra.jpg" in summary["skipped"][0]
    described = json.loads("\n".join(run_ok("info", tmp_path / "i.h5", "--json")))[0]["summary"]
    assert described == {name: value for name, value in summary.items() if name not in ("failures", "skipped")}
    assert index_table(root, tmp_path / "j.h5", "--allow-errors", "1", "-q").err == ""
    check_error(index_table(root, tmp_path / "j.h5", "--summary-json", "k.h5"), 2, "--summary-json k.h5", "JSON")
    assert index_table(root, tmp_path / "j.h5", "-n", "--summary-json", tmp_path / "no.json").code == 65
    assert not (tmp_path / "no.json").exists()


def test_parts_selections_and_merged_indexes_have_a_summary_of_their_own(root, tmp_path):
    change_masks(root, swap_classes, 1)
    assert index_table(root, tmp_path / "parts", "--shard-size", "5").code == 0
    run_ok("merge", tmp_path / "parts", "-o", tmp_path / "merged.h5")
    run_ok("index", "split", tmp_path / "merged.h5", "--single", "-o", tmp_path / "single.h5")
    assert index_table(root, tmp_path / "whole.h5").code == 0
    parts = sorted((tmp_path / "parts").glob("*.h5"))
    summaries = [read_summary(Shard(path)) for path in [*parts, *(tmp_path / name for name in (
        "merged.h5", "whole.h5", "single.h5"))]]
    assert [summary["masks"] for summary in summaries] == [5, 5, 2, 12, 12, 8]
    assert [summary["contradictions"]["images"] for summary in summaries] == [1, 0, 0, 1, 1, 1]
    assert summaries[3] == summaries[4]
