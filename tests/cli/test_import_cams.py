"""`import cams`: CAMs in the files of IRN, PSA and CLIP-ES, in .npz files, and as a picture per class."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cli.runner import check_error, run, run_ok
from stages.flow.item_arrays import resize_to_image
from stages.shards import Item, Run, Shard

Maps = dict[str, Item]


@pytest.fixture(scope="module")
def original(maps: Path) -> Maps:
    """Return the items of a CAM run of the tiny data set by id."""
    cams_run = Run([maps], "cams")
    return {item_id: cams_run.item(item_id) for item_id in cams_run.ids}


def save_all(folder: Path, original: Maps, build: Callable[[Item], Any]) -> Path:
    """Save what `build` makes of the maps of each image as ID.npy, as np.save does with a dictionary."""
    folder.mkdir(parents=True, exist_ok=True)
    for item_id, item in original.items():
        np.save(folder / f"{item_id}.npy", build(item), allow_pickle=True)
    return folder


def build_irn(item: Item) -> dict[str, Any]:
    """Return what IRN saves of an image: tensors and arrays, and classes counted from 0."""
    return {"keys": torch.from_numpy(item.datasets["class_ids"].astype(np.int64) - 1),
            "cam": torch.from_numpy(item.datasets["cam"].astype(np.float32)),
            "high_res": resize_to_image(item)[0]}


def build_clip_es(item: Item) -> dict[str, Any]:
    return {"keys": item.datasets["class_ids"].astype(np.int64) - 1,
            "attn_highres": resize_to_image(item)[0].astype(np.float16)}


def build_psa(item: Item) -> dict[int, np.ndarray]:
    return dict(zip((int(class_id) - 1 for class_id in item.datasets["class_ids"]), resize_to_image(item)[0],
                    strict=True))


def run_import(folder: Path, index: Path, output: Path, *more: object):
    return run("import", "cams", folder, "--index", index, "-o", output, *more)


def check_equal(output: Path, original: Maps, tolerance: float = 2**-11) -> None:
    """Check that the imported maps equal the original ones at the size of the image, to half precision."""
    imported = Run([output], "cams")
    assert list(imported.ids) == list(original)
    for item_id, item in original.items():
        expected, class_ids = resize_to_image(item)
        maps, imported_ids = resize_to_image(imported.item(item_id))
        assert imported_ids.tolist() == class_ids.tolist()
        assert maps.shape == expected.shape
        assert np.abs(maps - expected).max(initial=0) <= tolerance


@pytest.mark.parametrize("build", [build_irn, build_clip_es, build_psa])
def test_dictionaries_of_other_tools_give_the_same_maps(build, original, tiny_index, tmp_path):
    done = run_import(save_all(tmp_path / "files", original, build), tiny_index, tmp_path / "cams")
    assert done.code == 0, done.err
    assert "0 = cat, 1 = dog" in done.err
    check_equal(tmp_path / "cams", original)


def test_later_stages_work_on_imported_maps(original, tiny_index, tmp_path):
    run_import(save_all(tmp_path / "files", original, build_irn), tiny_index, tmp_path / "cams")
    scores = run_ok("eval", tmp_path / "cams", "--background", "constant:0.3")
    assert any(line.startswith("mIoU") for line in scores)
    run_ok("pseudo", tmp_path / "cams", "-o", tmp_path / "masks")
    run_ok("refine", "pamr", tmp_path / "cams", "--iterations", "1", "--device", "cpu", "-o", tmp_path / "pamr")
    run_ok("show", tmp_path / "cams", "--count", "2", "-o", tmp_path / "look.png")
    assert run("check", tmp_path / "cams").code == 0
    assert "none" in "\n".join(run_ok("info", tmp_path / "cams"))
    entry = Shard(tmp_path / "cams" / "cams-00000-of-00001.h5").provenance[-1]
    assert entry["config"] == {"shard_size": 256, "ids_from": 0, "array": "", "background": "none",
                               "normalise": "none", "other_classes": "reject", "stride": 0, "pattern": "{id}"}


def test_the_coarse_maps_of_irn_span_the_padded_image(original, tiny_index, tmp_path):
    folder = save_all(tmp_path / "files", original, build_irn)
    run_ok("import", "cams", folder, "--index", tiny_index, "--array", "cam", "--stride", "4", "-o", tmp_path / "cams")
    imported = Run([tmp_path / "cams"], "cams")
    for item_id, item in original.items():
        copy = imported.item(item_id)
        assert np.array_equal(copy.datasets["cam"], item.datasets["cam"])
        assert copy.attrs["covers"].tolist() == item.attrs["covers"].tolist()
    check_error(run_import(folder, tiny_index, tmp_path / "no", "--array", "cam", "--stride", "8"), 65, "--stride 8",
                "12x16", "6x8")
    check_error(run_import(folder, tiny_index, tmp_path / "no", "--array", "lowres"), 65, "lowres", "high_res")


@pytest.mark.parametrize("as_names", [True, False])
def test_npz_files_and_pictures_by_class_name_or_number(as_names, original, tiny_index, tmp_path):
    names = ("background", "cat", "dog")
    for folder in ("npz", "byte"):
        (tmp_path / folder).mkdir()
    for item_id, item in original.items():
        keys = [names[class_id] if as_names else str(class_id) for class_id in item.datasets["class_ids"]]
        rows = resize_to_image(item)[0]
        np.savez(tmp_path / "npz" / f"{item_id}.npz", **dict(zip(keys, rows, strict=True)))
        for position, (key, row) in enumerate(zip(keys, rows, strict=True)):
            path = tmp_path / "png" / (f"{item_id}_{key}.png" if position else f"{item_id}/{key}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.round(row * 65535).astype(np.uint16)).save(path)
            Image.fromarray(np.round(row * 255).astype(np.uint8)).save(tmp_path / "byte" / f"{item_id}_{key}.png")
    for folder, tolerance in (("npz", 2**-11), ("png", 2**-11), ("byte", 0.5 / 255 + 1e-6)):
        done = run_import(tmp_path / folder, tiny_index, tmp_path / f"{folder}-cams", "--ids-from", "1")
        assert done.code == 0, done.err
        check_equal(tmp_path / f"{folder}-cams", original, tolerance)
    assert Run([tmp_path / "byte-cams"]).item(next(iter(original))).datasets["cam"].dtype == np.uint8


def test_a_wrong_first_number_is_found_by_the_tags(original, tiny_index, tmp_path):
    folder = save_all(tmp_path / "files", original, lambda item: {
        int(class_id): row for class_id, row in zip(item.datasets["class_ids"], resize_to_image(item)[0],
                                                    strict=True)})
    message = check_error(run_import(folder, tiny_index, tmp_path / "cams"), 65, "none of 8 images", "picture_000.npy",
                          "--ids-from 1")
    assert "dog (key 1), but the tags of the image are cat" in message
    assert run_import(folder, tiny_index, tmp_path / "cams", "--ids-from", "1").code == 0
    check_equal(tmp_path / "cams", original)
    folder = save_all(tmp_path / "zero", original, build_psa)
    check_error(run_import(folder, tiny_index, tmp_path / "no", "--ids-from", "1"), 65, "background", "--ids-from 0")


def test_maps_of_other_classes_are_rejected_kept_or_dropped(original, tiny_index, tmp_path):
    def build_all_classes(item: Item) -> dict[int, np.ndarray]:
        rows = dict.fromkeys((0, 1), np.full((48, 64), 0.25, np.float32))
        return {**rows, **build_psa(item)}

    folder = save_all(tmp_path / "files", original, build_all_classes)
    done = run_import(folder, tiny_index, tmp_path / "no")
    assert done.code == 65
    assert "a map of dog (key 1)" in next(iter(Run([tmp_path / "no"]).first.errors.values()))
    assert "--other-classes" in next(iter(Run([tmp_path / "no"]).first.errors.values()))
    assert run_import(folder, tiny_index, tmp_path / "kept", "--other-classes", "keep").code == 0
    assert all(len(item.datasets["cam"]) == 2 for item in Run([tmp_path / "kept"]).first.items())
    assert run_import(folder, tiny_index, tmp_path / "dropped", "--other-classes", "drop").code == 0
    check_equal(tmp_path / "dropped", original)


@pytest.mark.parametrize(("change", "words"), [
    (lambda item: {**build_clip_es(item),
                   "attn_highres": np.full((len(item.datasets["cam"]), 48, 64), [[-1.5], [7]] * 24)},
     ("-1.5 to 7", "--normalise")),
    (lambda item: {**build_clip_es(item), "attn_highres": np.full((len(item.datasets["cam"]), 48, 64), np.nan)},
     ("not finite",)),
    (lambda item: {**build_clip_es(item), "attn_highres": (resize_to_image(item)[0] > 0.5).astype(np.uint8)},
     ("only 0 and 1", "wsss import masks")),
    (lambda item: {**build_clip_es(item), "attn_highres": resize_to_image(item)[0].transpose(0, 2, 1)},
     ("64x48", "48x64")),
    (lambda item: {**build_clip_es(item), "keys": np.array([0, 1, 1])}, ("(3,)", "(K,)")),
    (lambda item: {"keys": [0], "maps": 1}, ("maps", "--array")),
    (lambda item: {7: np.zeros((48, 64))}, ("key 7 is no class", "0 = cat, 1 = dog")),
    (lambda item: {"names": ["cat"], "cam": np.zeros((1, 48, 64))}, ("names", "{class: map}")),
    (lambda item: np.zeros((2, 48, 64)), ("(2, 48, 64)", "does not say the classes"))])
def test_what_can_be_misread_is_rejected_with_the_value(change, words, original, tiny_index, tmp_path):
    folder = save_all(tmp_path / "files", original, change)
    message = check_error(run_import(folder, tiny_index, tmp_path / "cams"), 65, *words)
    assert ".npy" in message
    assert not (tmp_path / "cams").exists()


def test_tags_without_a_map_are_counted(original, tiny_index, tmp_path):
    folder = save_all(tmp_path / "files", original, lambda item: dict(list(build_psa(item).items())[:1]))
    done = run_import(folder, tiny_index, tmp_path / "cams")
    assert done.code == 0
    assert "4 of 12 images have no map of one of their tags: picture_002 is tagged cat, dog, without dog" in done.err


def test_normalising_divides_by_the_maximum(original, tiny_index, tmp_path):
    folder = save_all(tmp_path / "files", original, lambda item: {
        key: 20 * row - 4 for key, row in build_psa(item).items()})
    run_ok("import", "cams", folder, "--index", tiny_index, "--normalise", "maximum", "-o", tmp_path / "cams")
    imported = Run([tmp_path / "cams"])
    for item_id, item in original.items():
        raw = np.maximum(20 * resize_to_image(item)[0] - 4, 0)
        expected = raw / raw.max(axis=(1, 2), keepdims=True)
        assert np.abs(imported.item(item_id).datasets["cam"] - expected).max() <= 2**-10


def test_maps_with_background_compete(original, tiny_index, tmp_path):
    def build_posteriors(item: Item) -> dict[int, np.ndarray]:
        rows = {int(key) + 1: row * 0.9 for key, row in build_psa(item).items()}
        return {0: 1 - np.maximum.reduce(list(rows.values())), **rows}

    folder = save_all(tmp_path / "files", original, build_posteriors)
    check_error(run_import(folder, tiny_index, tmp_path / "no", "--ids-from", "1"), 65, "--background included")
    run_ok("import", "cams", folder, "--index", tiny_index, "--ids-from", "1", "--background", "included", "-o",
           tmp_path / "cams")
    assert Run([tmp_path / "cams"]).first.attribute("background") == "included"
    run_ok("pseudo", tmp_path / "cams", "-o", tmp_path / "masks")
    run_ok("eval", tmp_path / "cams")
    folder = save_all(tmp_path / "plain", original, build_psa)
    check_error(run_import(folder, tiny_index, tmp_path / "no", "--background", "included"), 65,
                "no map of the background")


class Hostile:
    """Creates a file when it is unpickled in the usual way."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def test_a_file_that_would_run_a_command_is_rejected_and_runs_nothing(original, tiny_index, tmp_path):
    marker = tmp_path / "executed"
    folder = save_all(tmp_path / "files", original, lambda item: {**build_psa(item), 1: Hostile(marker)})
    check_error(run_import(folder, tiny_index, tmp_path / "cams"), 65, "would call", "system", "np.savez")
    assert not marker.exists()
    np.load(folder / "picture_000.npy", allow_pickle=True)
    assert marker.exists(), "the file is not the danger that it should be"


def test_arrays_next_to_pictures_of_classes_are_ambiguous(original, tiny_index, tmp_path):
    folder = save_all(tmp_path / "files", original, build_psa)
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(folder / "picture_000_cat.png")
    check_error(run_import(folder, tiny_index, tmp_path / "cams"), 65, "picture_000.npy", "picture_000_cat.png")
    check_error(run_import(folder, tiny_index, tmp_path / "cams", "--background", "included", "--normalise",
                           "maximum"), 2, "--normalise")
