"""`import masks`: masks of other tools as a run, with every reading that is not certain rejected."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.runner import TRAINING, check_error, read_items, run, run_ok
from stages.data.result_files import match_files
from stages.shards import Run, Shard
from tiny_datasets import TinyDataset, build_voc_palette


@pytest.fixture(scope="module")
def truth(tiny_dataset: TinyDataset) -> dict[str, np.ndarray]:
    """Return the true masks of the tiny data set by id."""
    return {item_id: np.array(Image.open(tiny_dataset.root / "SegmentationClass" / f"{item_id}.png"))
            for item_id in tiny_dataset.ids}


def save_masks(folder: Path, masks: dict[str, np.ndarray], suffix: str = ".png") -> Path:
    """Write each mask as ID.SUFFIX: grey PNG, or an array."""
    for item_id, mask in masks.items():
        path = folder / f"{item_id}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == ".npy":
            np.save(path, mask)
        elif suffix == ".npz":
            np.savez_compressed(path, mask)
        else:
            Image.fromarray(mask).save(path)
    return folder


def run_import(folder: Path, index: Path, output: Path, *more: object):
    return run("import", "masks", folder, "--index", index, "-o", output, *more)


def test_true_masks_score_exactly_one_and_every_stage_reads_them(tiny_dataset, tiny_index, truth, tmp_path):
    paths = run_ok("import", "masks", tiny_dataset.root / "SegmentationClass", "--index", tiny_index, "-o",
                   tmp_path / "masks")
    assert paths == [str(tmp_path / "masks" / "masks-00000-of-00001.h5")]
    imported = read_items(tmp_path / "masks", "masks", "mask")
    assert imported.keys() == truth.keys()
    for item_id, mask in truth.items():
        assert np.array_equal(imported[item_id], mask)
    scores = dict(line.split("\t") for line in run_ok("eval", tmp_path / "masks"))
    assert scores["mIoU"] == "100.00%" and scores["images"] == "12"
    assert '"miou": 1.0' in "\n".join(run_ok("eval", tmp_path / "masks", "--json"))
    run_ok("export", "png", tmp_path / "masks", "-o", tmp_path / "png")
    assert np.array_equal(Image.open(tmp_path / "png" / f"{tiny_dataset.ids[0]}.png"), truth[tiny_dataset.ids[0]])
    run_ok("show", tmp_path / "masks", "--count", "2", "-o", tmp_path / "look.png")
    run_ok("merge", tmp_path / "masks", "-o", tmp_path / "merged.h5")
    assert run("check", tmp_path / "masks").code == 0
    run_ok("train-seg", tiny_index, "--masks", tmp_path / "masks", *TRAINING, "-o", tmp_path / "seg.safetensors")
    entry = Shard(Path(paths[0])).provenance[-1]
    assert (entry["stage"], entry["method"]) == ("import", "masks")
    assert len(entry["inputs"]["folder"]) == 64
    assert str(tmp_path) not in str(Shard(Path(paths[0])).provenance)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".bmp", ".TIF"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_arrays_and_other_lossless_images_are_read(suffix, dtype, tiny_index, truth, tmp_path):
    if dtype == np.int64 and not suffix.startswith(".np"):
        pytest.skip("images have no 64 bits")
    folder = save_masks(tmp_path / "files", {name: mask.astype(dtype) for name, mask in truth.items()}, suffix)
    run_ok("import", "masks", folder, "--index", tiny_index, "-o", tmp_path / "masks")
    imported = read_items(tmp_path / "masks", "masks", "mask")
    assert all(np.array_equal(imported[name], mask) and imported[name].dtype == np.uint8
               for name, mask in truth.items())


def test_values_and_colours_are_mapped_and_the_meaning_is_printed(tiny_index, truth, tmp_path):
    meaning = {0: 0, 1: 50, 2: 255, 255: 9}
    folder = save_masks(tmp_path / "grey", {name: np.vectorize(meaning.get, otypes=[np.uint8])(mask)
                                            for name, mask in truth.items()})
    done = run_import(folder, tiny_index, tmp_path / "a", "--mask-values", "50=cat,255=dog,9=ignore")
    assert done.code == 0, done.err
    assert "50 = cat" in done.err and "9 = ignored" in done.err
    palette = np.array(build_voc_palette(), np.uint8).reshape(-1, 3)
    save_masks(tmp_path / "rgb", {name: palette[np.where(mask == 255, 7, mask + (mask > 0) * 2)]
                                  for name, mask in truth.items()})
    colours = ["".join(f"{value:02x}" for value in palette[index]) for index in (3, 4, 7)]
    text = f"#{colours[0]}=cat,#{colours[1]}=dog,#{colours[2]}=ignore"
    assert run_import(tmp_path / "rgb", tiny_index, tmp_path / "b", "--mask-values", text).code == 0
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\n" + "".join(
        f"{name}:{','.join(map(str, palette[index]))}::\n" for name, index in (("cat", 3), ("dog", 4), ("void", 7))))
    assert run_import(tmp_path / "rgb", tiny_index, tmp_path / "c", "--mask-values",
                      tmp_path / "labelmap.txt").code == 0
    for output in "abc":
        imported = read_items(tmp_path / output, "masks", "mask")
        assert all(np.array_equal(imported[name], mask) for name, mask in truth.items()), output


@pytest.mark.parametrize(("change", "words"), [
    (lambda mask: mask[:-1], ("47x64", "48x64", "original size")),
    (lambda mask: (mask > 0).astype(np.uint8) * 254, ("254", "--mask-values")),
    (lambda mask: mask / 2, ("float64", "np.save")),
    (lambda mask: mask[None], ("(1, 48, 64)", "two axes")),
    (lambda mask: mask.astype(np.int16) - 1, ("-1", "class ids"))])
def test_masks_that_are_all_wrong_end_the_command_before_it_writes(change, words, tiny_index, truth, tmp_path):
    folder = save_masks(tmp_path / "files", {name: change(mask) for name, mask in truth.items()}, ".npy")
    message = check_error(run_import(folder, tiny_index, tmp_path / "masks"), 65, *words)
    assert "none of 8 images" in message
    assert "picture_000.npy" in message
    assert not (tmp_path / "masks").exists()


def test_single_failures_name_file_value_and_remedy_and_are_counted(tiny_index, truth, tmp_path):
    masks = dict(truth)
    ids = list(masks)
    masks[ids[3]] = np.full_like(masks[ids[3]], 77)
    missing = ids[5]
    del masks[missing]
    folder = save_masks(tmp_path / "files", masks)
    (folder / "notes.txt").write_text("x")
    Image.fromarray(truth[ids[0]]).save(folder / "stranger.png")
    (folder / f"{ids[7]}.npy").write_bytes(b"")
    done = run_import(folder, tiny_index, tmp_path / "masks")
    assert done.code == 65
    errors = Run([tmp_path / "masks"]).first.errors
    assert set(errors) == {ids[3], missing, ids[7]}
    assert f"{ids[3]}.png" in errors[ids[3]] and "77" in errors[ids[3]] and "--mask-values 77=" in errors[ids[3]]
    assert f"{missing}.png" in errors[missing] and "--allow-errors" in errors[missing]
    assert f"{ids[7]}.npy and {ids[7]}.png" in errors[ids[7]]
    assert "10 of 12 images" in done.err and f"for example {missing}" in done.err
    assert "Skipped 2 files" in done.err and "notes.txt, stranger.png" in done.err
    assert "with --force, or accept" in done.err.splitlines()[-1]
    assert run_import(folder, tiny_index, tmp_path / "masks", "--allow-errors", "3").code == 0
    scored = run("eval", tmp_path / "masks")
    assert scored.code == 0 and "3 of 12 images" in scored.err
    check_error(run_import(folder, tiny_index, tmp_path / "strict", "--strict"), 65, ids[3])


def test_classes_that_contradict_the_tags_are_reported(tiny_index, truth, tmp_path):
    swapped = {name: np.where(mask == 1, 2, np.where(mask == 2, 1, mask)).astype(np.uint8)
               for name, mask in truth.items()}
    folder = save_masks(tmp_path / "swapped", swapped)
    done = run_import(folder, tiny_index, tmp_path / "a", "-j", "1", "--shard-size", "5")
    assert done.code == 0
    # Every third image shows both classes.
    assert "8 of 12 masks have classes that are not among the tags: picture_000 has dog and is tagged cat" in done.err
    assert "--mask-values" in done.err
    done = run_import(save_masks(tmp_path / "right", truth), tiny_index, tmp_path / "b")
    assert "tags" not in done.err
    empty = {name: np.zeros_like(mask) for name, mask in truth.items()}
    done = run_import(save_masks(tmp_path / "empty", empty), tiny_index, tmp_path / "c")
    assert "warning: 100.00% of the pixels of 12 images with a class are background" in done.err


def test_names_may_differ_in_case_and_suffix_if_only_one_file_can_be_meant(tiny_index, truth, tmp_path):
    folder = save_masks(tmp_path / "files", {name.upper(): mask for name, mask in truth.items()}, ".PNG")
    done = run_import(folder, tiny_index, tmp_path / "masks")
    assert done.code == 0, done.err
    assert "Matched 12 file names" in done.err
    assert len(read_items(tmp_path / "masks", "masks", "mask")) == 12


def test_ids_with_folders_are_found_below_the_folder_and_links_are_followed(tiny_dataset, truth, tmp_path):
    root = tmp_path / "set"
    for item_id in tiny_dataset.ids[:3]:
        (root / "a").mkdir(parents=True, exist_ok=True)
        os.link(tiny_dataset.root / "JPEGImages" / f"{item_id}.jpg", root / "a" / f"{item_id}.jpg")
    (root / "labels.csv").write_text("path,labels\n" + "".join(f"a/{item_id}.jpg,cat\n"
                                                                for item_id in tiny_dataset.ids[:3]))
    run_ok("index", "table", root / "labels.csv", "--images", root, "--class-names",
           tiny_dataset.root / "classes.txt", "-o", tmp_path / "index.h5")
    real = save_masks(tmp_path / "elsewhere", {name: truth[name] for name in tiny_dataset.ids[:3]})
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a").symlink_to(real)
    (real / "loop").symlink_to(tmp_path / "files")
    done = run_import(tmp_path / "files", tmp_path / "index.h5", tmp_path / "masks")
    assert done.code == 0, done.err
    assert sorted(read_items(tmp_path / "masks", "masks", "mask")) == [f"a/{name}" for name in tiny_dataset.ids[:3]]


def test_a_file_is_never_given_to_two_images():
    ids = ["a.jpg", "a.png", "b.jpg", "C", "c"]
    matches = match_files(ids, ["a.png", "b.png", "c.png", "C.npy", "d.txt"], [".png", ".npy"])
    assert matches.files == {"b.jpg": "b.png", "C": "C.npy", "c": "c.png"}
    assert matches.unused == ["a.png", "d.txt"]
    assert match_files(["C", "c"], ["c.png"], [".png"]).files == {"c": "c.png"}
    assert match_files(["Caf\u00e9"], ["cafe\u0301.PNG"], [".png"]).renamed == ["Caf\u00e9"]


def test_names_that_match_nothing_name_what_was_tried_and_the_closest(tiny_index, truth, tmp_path):
    folder = save_masks(tmp_path / "files", {f"{name}_mask": mask for name, mask in truth.items()})
    check_error(run_import(folder, tiny_index, tmp_path / "masks"), 66, "none of the 12 images", "picture_000.png",
                "_mask.png")
    check_error(run_import(tmp_path / "no", tiny_index, tmp_path / "masks"), 66, "no such folder")
    (tmp_path / "empty").mkdir()
    check_error(run_import(tmp_path / "empty", tiny_index, tmp_path / "masks"), 66, "empty")
    check_error(run("import", "masks", folder, folder, "--index", tiny_index, "-o", tmp_path / "masks"), 2, "2 folders")
    check_error(run_import(folder, folder, tmp_path / "masks"), 66, "holds no shards")
    check_error(run_import(folder, tiny_index, tmp_path / "masks", "--mask-values", "7=bird"), 2, "bird", "cat, dog")


def test_a_changed_folder_is_noticed_and_an_equal_one_is_up_to_date(tiny_index, truth, tmp_path):
    folder = save_masks(tmp_path / "files", truth)
    assert run_import(folder, tiny_index, tmp_path / "masks").code == 0
    data = (tmp_path / "masks" / "masks-00000-of-00001.h5").read_bytes()
    (folder / "readme.md").write_text("belongs to no image")
    assert "up to date" in run_import(folder, tiny_index, tmp_path / "masks").err
    save_masks(folder, {next(iter(truth)): np.zeros_like(next(iter(truth.values())))})
    check_error(run_import(folder, tiny_index, tmp_path / "masks"), 73, "folder", "--force")
    assert (tmp_path / "masks" / "masks-00000-of-00001.h5").read_bytes() == data
    assert run_import(folder, tiny_index, tmp_path / "masks", "--force").code == 0
    assert (tmp_path / "masks" / "masks-00000-of-00001.h5").read_bytes() != data


def test_tasks_and_processes_make_the_same_shards(tiny_index, truth, tmp_path):
    folder = save_masks(tmp_path / "files", truth)
    more = ("--shard-size", "4")
    assert run_import(folder, tiny_index, tmp_path / "one", *more, "-j", "2").code == 0
    for task in range(3):
        assert run_import(folder, tiny_index, tmp_path / "two", *more, "--task", f"{task}/3").code == 0
    names = sorted(path.name for path in (tmp_path / "one").glob("*.h5"))
    assert names == [f"masks-{part:05d}-of-00003.h5" for part in range(3)]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_pickles_and_lossy_images_are_rejected(tiny_index, truth, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name in truth:
        np.save(folder / f"{name}.npy", np.array({"a": 1}, dtype=object), allow_pickle=True)
    check_error(run_import(folder, tiny_index, tmp_path / "masks"), 65, "Python object", "wsss import cams")
    for name, mask in truth.items():
        (folder / f"{name}.npy").unlink()
        Image.fromarray(mask).save(folder / f"{name}.png", format="JPEG")
    check_error(run_import(folder, tiny_index, tmp_path / "masks"), 65, "JPEG", "PNG")
