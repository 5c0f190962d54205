"""`import --pattern`: file names with something before or after the image id."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import check_error, read_items, run, run_ok
from stages.data.name_pattern import parse_name_pattern
from stages.data.result_files import match_files
from stages.shards import Run
from tiny_datasets import TinyDataset


@pytest.fixture(scope="module")
def truth(tiny_dataset: TinyDataset) -> dict[str, np.ndarray]:
    """Return the true masks of the tiny data set by id."""
    return {item_id: np.array(Image.open(tiny_dataset.root / "SegmentationClass" / f"{item_id}.png"))
            for item_id in tiny_dataset.ids}


def save_masks(folder: Path, masks: dict[str, np.ndarray], name: str) -> Path:
    """Save each mask under `name`, in which ID stands for its id."""
    for item_id, mask in masks.items():
        path = folder / name.replace("ID", item_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return folder


@pytest.mark.parametrize(("pattern", "name"), [
    ("{id}_mask.png", "ID_mask.png"), ("{id}_mask", "ID_mask.png"), ("pred_{id}", "pred_ID.PNG"),
    ("{id}/mask.png", "ID/mask.png"), ("out/x-{id}.jpg.png", "out/x-ID.jpg.png"), ("./{id}.png", "ID.png"),
    ("{id}", "ID.png")])
def test_names_are_matched(pattern, name, truth, tiny_index, tmp_path):
    folder = save_masks(tmp_path / "files", truth, name)
    run_ok("import", "masks", folder, "--index", tiny_index, "--pattern", pattern, "-o", tmp_path / "masks")
    imported = read_items(tmp_path / "masks", "masks", "mask")
    assert imported.keys() == truth.keys()
    assert all(np.array_equal(imported[item_id], mask) for item_id, mask in truth.items())


def test_only_files_of_this_form_are_read(truth, tiny_index, tmp_path):
    """Two files per image: masks, and pictures of another size that must not be read."""
    folder = save_masks(tmp_path / "files", truth, "ID_mask.png")
    save_masks(folder, dict.fromkeys(truth, np.zeros((5, 7), np.uint8)), "ID_preview.png")
    done = run("import", "masks", folder, "--index", tiny_index, "--pattern", "{id}_mask.png", "-o", tmp_path / "m")
    assert done.code == 0 and f"Skipped {len(truth)} files" in done.err and "picture_000_preview.png" in done.err


def test_the_suffix_of_a_pattern_chooses_between_files(truth, tiny_index, tmp_path):
    folder = save_masks(tmp_path / "files", truth, "ID_mask.png")
    np.save(folder / "picture_000_mask.npy", np.full((48, 64), 1))
    command = ("import", "masks", folder, "--index", tiny_index)
    assert run(*command, "--pattern", "{id}_mask", "-o", tmp_path / "any").code == 65
    assert "several files" in Run([tmp_path / "any"]).first.errors["picture_000"]
    run_ok(*command, "--pattern", "{id}_mask.png", "-o", tmp_path / "png")
    assert np.array_equal(read_items(tmp_path / "png", "masks", "mask")["picture_000"], truth["picture_000"])


def test_the_message_shows_the_pattern_that_fits(truth, tiny_index, tmp_path):
    folder = save_masks(tmp_path / "files", truth, "pred_ID mask.png")
    command = ("import", "masks", folder, "--index", tiny_index, "-o", tmp_path / "masks")
    message = check_error(run(*command), 66, "there is no picture_000.png", "--pattern")
    option = shlex.split(message[message.index("--pattern"):].removesuffix("."))
    assert option == ["--pattern", "pred_{id} mask.png"]
    run_ok(*command, *option)
    message = check_error(run(*command, "--pattern", "{id}_x.png", "--force"), 66, "there is no picture_000_x.png")


@pytest.mark.parametrize("pattern", [(), ("--pattern", "{id}.png")])
def test_masks_are_no_maps(pattern, truth, tiny_index, tmp_path):
    """One picture per image is no CAM, which has one per class; a pattern would not help."""
    folder = save_masks(tmp_path / "files", truth, "ID.png")
    done = run("import", "cams", folder, "--index", tiny_index, "-o", tmp_path / "cams", *pattern)
    message = check_error(done, 66, "the command reads no files named ID.png", "`wsss import masks`")
    assert "--pattern" not in message


def test_a_missing_file_is_named_as_the_pattern_says(truth, tiny_index, tmp_path):
    folder = save_masks(tmp_path / "files", truth, "a/pred_ID.png")
    (folder / "a" / "pred_picture_003.png").unlink()
    done = run("import", "masks", folder, "--index", tiny_index, "--pattern", "a/pred_{id}", "-o", tmp_path / "masks")
    assert done.code == 65
    assert "a/pred_picture_003.png" in Run([tmp_path / "masks"]).first.errors["picture_003"]


@pytest.mark.parametrize(("pattern", "words"), [
    ("mask.png", "does not contain {id}"), ("", "does not contain {id}"), ("{id}_{id}.png", "more than once"),
    ("*_{id}.png", "other signs"), ("{name}/{id}.png", "other signs"), ("../{id}.png", "leads out of the folder"),
    ("/data/{id}.png", "leads out of the folder")])
@pytest.mark.parametrize("kind", ["masks", "cams", "regions"])
def test_unusable_patterns_are_rejected(kind, pattern, words, truth, tiny_index, tmp_path):
    folder = save_masks(tmp_path / "files", truth, "ID.png")
    check_error(run("import", kind, folder, "--index", tiny_index, "--pattern", pattern, "-o", tmp_path / "x"), 2,
                "--pattern", words)


def test_cams_and_regions_have_patterns_too(truth, tiny_index, tmp_path):
    folder = save_masks(tmp_path / "regions", {name: (mask > 0).astype(np.uint8) for name, mask in truth.items()},
                        "ID_sam.png")
    run_ok("import", "regions", folder, "--index", tiny_index, "--pattern", "{id}_sam", "-o", tmp_path / "r")
    (tmp_path / "cams").mkdir()
    (tmp_path / "pictures").mkdir()
    index = Run([tiny_index])
    for item_id in index.ids:
        labels = index.item(item_id).datasets["labels"].tolist()
        maps = {class_id - 1: np.full((6, 8), class_id / 4, np.float32) for class_id in labels}
        np.save(tmp_path / "cams" / f"cam_{item_id}.npy", maps, allow_pickle=True)
        for class_id in labels:
            Image.fromarray(np.full((6, 8), 100, np.uint8)).save(
                tmp_path / "pictures" / f"{item_id}_{class_id - 1}_cam.png")
    for folder, pattern in (("cams", "cam_{id}.npy"), ("pictures", "{id}_cam")):
        output = tmp_path / f"{folder}-run"
        run_ok("import", "cams", tmp_path / folder, "--index", tiny_index, "--pattern", pattern, "-o", output)
        imported = Run([output], "cams")
        assert all(imported.item(name).datasets["class_ids"].tolist() == index.item(name).datasets["labels"].tolist()
                   for name in index.ids)


def test_the_prefix_belongs_to_the_last_part_of_an_id():
    pattern = parse_name_pattern("out/pred_{id}_m", (".png",))
    files = ["out/a/pred_1_m.png", "out/pred_b_m.png", "pred_c_m.png", "out/a/1.png"]
    matches = match_files(["a/1", "b", "c"], files, (".png",), pattern)
    assert matches.files == {"a/1": "out/a/pred_1_m.png", "b": "out/pred_b_m.png"}
    assert matches.unused == ["out/a/1.png", "pred_c_m.png"]
    assert pattern.build_file_name("a/1.png") == "out/a/pred_1_m.png"
