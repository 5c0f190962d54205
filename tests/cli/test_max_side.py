"""With --max-side, every command computes what it would compute on images that were reduced beforehand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from cli.every_command import COMMANDS, list_commands
from cli.runner import check_error, run, run_ok
from stages.data.image_size import reduce_image, resize_labels
from stages.nets.net_files import read_net
from stages.shards import Item, Run
from tiny_datasets import TinyDataset
from wsss_cli.app import app

SIZE, REDUCED = (48, 64), (24, 32)
LIMIT = ("--max-side", str(max(REDUCED)))
REFINED = {"refine crf": "crf", "refine psa": "psa", "refine irn": "irn", "refine pamr": "pamr",
           "refine par": "par"}
TRAINED = [name for name in COMMANDS if name.startswith("train-")]
BY_REGIONS = ["bank", "segment corrclip", "segment retrieve"]
SEGMENTED = [name for name in COMMANDS if name.startswith("segment ") and name not in BY_REGIONS]
MAPPED = ["cams cnn", "cams gradcam", "cams mctformer", "cams clip-es", "cams excel", "features"]


def index_images(folder: Path, size: tuple[int, int], dataset: TinyDataset) -> None:
    """Write the images (as PNG, which no decoder reduces) and masks at `size`, and two indexes of them."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for item_id in dataset.ids:
        with Image.open(dataset.root / "JPEGImages" / f"{item_id}.jpg") as image:
            reduce_image(image.convert("RGB"), size).save(folder / "images" / f"{item_id}.png")
        with Image.open(dataset.root / "SegmentationClass" / f"{item_id}.png") as mask:
            Image.fromarray(resize_labels(np.asarray(mask), size)).save(folder / "masks" / f"{item_id}.png")
    shutil.copy(dataset.root / "labels.csv", folder)
    captions = "".join(f"{item_id},A dog and a cat\n" for item_id in dataset.ids)
    (folder / "captions.csv").write_text(f"id,caption\n{captions}")
    run_ok("index", "table", "labels.csv", "--images", "images", "--masks", "masks", "--class-names",
           dataset.root / "classes.txt", "-o", "train.h5", "-q", cwd=folder)
    run_ok("index", "table", "captions.csv", "--images", "images", "-o", "captions.h5", "-q", cwd=folder)
    run_ok("cooc", "train.h5", "-o", "cooc.h5", "-q", cwd=folder)


@pytest.fixture(scope="module")
def folders(every_input: Path, tiny_dataset: TinyDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder of large images and one of the same images reduced, with CAMs of both and all networks."""
    result = {name: tmp_path_factory.mktemp(name) for name in ("large", "reduced")}
    for name, size in (("large", SIZE), ("reduced", REDUCED)):
        index_images(result[name], size, tiny_dataset)
        for path in every_input.iterdir():
            if path.suffix in (".safetensors", ".json", ".pt", ".txt") or path.name == "clusters.h5":
                shutil.copy(path, result[name])
        compute(result[name], "cams cnn", "cams")
    return result


def compute(folder: Path, command: str, output: str, *more: str) -> None:
    """Run a command of COMMANDS in a folder of images, with the limit where they are large."""
    words = COMMANDS[command].replace("OUT", output).split()
    limit = LIMIT if folder.name.startswith("large") else ("--max-side", "0")
    run_ok(*command.split(), *words, *limit, *more, "-q", cwd=folder)


def read_pairs(folders: dict[str, Path], name: str, kind: str) -> Iterator[tuple[Item, Item]]:
    """Yield the items of the large and of the reduced images."""
    large, reduced = (Run([folders[size] / name], kind) for size in ("large", "reduced"))
    ids = tuple(large.ids)
    assert ids == tuple(reduced.ids) and len(ids) == 12
    yield from ((large.item(item_id), reduced.item(item_id)) for item_id in ids)


def check_cams(folders: dict[str, Path], name: str) -> None:
    """Check that maps are equal, and that those of large images cover the large images."""
    for large, reduced in read_pairs(folders, name, "cams"):
        for dataset, array in reduced.datasets.items():
            np.testing.assert_array_equal(large.datasets[dataset], array)
        assert (large.attrs["height"], large.attrs["width"]) == SIZE
        assert (reduced.attrs["height"], reduced.attrs["width"]) == REDUCED
        assert large.attrs["covers"].tolist() == (2 * reduced.attrs["covers"]).tolist()


@pytest.mark.parametrize("command", MAPPED)
def test_maps(folders: dict[str, Path], command: str) -> None:
    for folder in folders.values():
        compute(folder, command, command.replace(" ", "-"))
    if command != "features":
        check_cams(folders, command.replace(" ", "-"))
        return
    features = [Run([folder / command], "features").first.read_root("features") for folder in folders.values()]
    np.testing.assert_array_equal(*features)


def test_superpixels(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        compute(folder, "regions superpixels", "regions")
    for large, reduced in read_pairs(folders, "regions", "regions"):
        assert large.datasets["labels"].shape == SIZE
        np.testing.assert_array_equal(large.datasets["labels"], resize_labels(reduced.datasets["labels"], SIZE))


@pytest.mark.parametrize("command", REFINED)
def test_refined_maps(folders: dict[str, Path], command: str) -> None:
    for folder in folders.values():
        compute(folder, command, REFINED[command])
    check_cams(folders, REFINED[command])


@pytest.mark.parametrize("command", SEGMENTED)
def test_scores_and_masks(folders: dict[str, Path], command: str) -> None:
    name = command.replace(" ", "-")
    more = () if "--scores" in COMMANDS[command] else ("--scores", f"{name}-scores")
    for folder in folders.values():
        compute(folder, command, name, *more)
    check_cams(folders, f"{name}-scores")
    for large, reduced in read_pairs(folders, name, "masks"):
        assert large.datasets["mask"].shape == large.datasets["confidence"].shape == SIZE
        # Large masks are made from the same scores, so they differ from enlarged masks at the borders of classes only.
        enlarged = reduced.datasets["mask"].repeat(2, axis=0).repeat(2, axis=1)
        assert (large.datasets["mask"] == enlarged).mean() > 0.8


def test_banks_and_masks_by_regions(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        for kind, output in (("masks", "true-masks"), ("regions", "parts-of-images")):
            more = ("--none-value", "255") if kind == "regions" else ()
            run_ok("import", kind, "masks", "--index", "train.h5", *more, "-q", "-o", output, cwd=folder)
        shutil.rmtree(folder / "bank", ignore_errors=True)
        words = COMMANDS["bank"].replace("masks", "true-masks").replace("OUT", "bank").split()
        run_ok("bank", *words, *(LIMIT if folder.name.startswith("large") else ()), "-q", cwd=folder)
        for command in BY_REGIONS[1:]:
            compute(folder, command, command.replace(" ", "-"))
    for large, reduced in read_pairs(folders, "bank", "bank"):
        np.testing.assert_array_equal(large.datasets["features"], reduced.datasets["features"])
    for large, reduced in read_pairs(folders, "segment-retrieve", "masks"):
        np.testing.assert_array_equal(large.datasets["mask"], resize_labels(reduced.datasets["mask"], SIZE))
    for large, reduced in read_pairs(folders, "segment-corrclip", "masks"):
        enlarged = reduced.datasets["mask"].repeat(2, axis=0).repeat(2, axis=1)
        assert (large.datasets["mask"] == enlarged).mean() > 0.8


def test_segmentation_with_crf(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        compute(folder, "segment net", "crf-masks", "--crf", "deeplab")
    for large, reduced in read_pairs(folders, "crf-masks", "masks"):
        assert large.datasets["mask"].shape == SIZE
        enlarged = reduced.datasets["mask"].repeat(2, axis=0).repeat(2, axis=1)
        assert (large.datasets["mask"] == enlarged).mean() > 0.8


@pytest.mark.parametrize("command", TRAINED)
def test_trained_weights(folders: dict[str, Path], command: str) -> None:
    more = ("--masks", "truth") if "--masks" in COMMANDS[command] else ()
    tensors = []
    for folder in folders.values():
        compute(folder, command, command.replace(" ", "-"), *more)
        tensors.append(read_net(folder / f"{command.replace(' ', '-')}.safetensors")[0])
    for name, weights in tensors[1].items():
        np.testing.assert_array_equal(tensors[0][name].numpy(), weights.numpy(), err_msg=name)


def test_prompts(folders: dict[str, Path]) -> None:
    arguments = ("prompts", "train.h5", "--clip", "seeded.json", "--weights", "seeded.pt", "--device", "cpu",
                 "--templates", "templates.txt", "--json", "-q")
    results = [json.loads("\n".join(run_ok(*arguments, *limit, cwd=folders[name])))
               for name, limit in (("large", LIMIT), ("reduced", ()), ("large", ()))]
    assert results[0]["templates"] == results[1]["templates"] != results[2]["templates"]


def test_every_command_with_the_option_is_tested() -> None:
    commands = list_commands(typer.main.get_command(app))
    with_option = {name for name, command in commands.items() if any(p.name == "max_side" for p in command.params)}
    assert with_option - {"report"} == {*MAPPED, *REFINED, *SEGMENTED, *BY_REGIONS, *TRAINED, "prompts",
                                        "regions superpixels"}  # report computes nothing


def test_the_number_of_reduced_images_is_reported(folders: dict[str, Path]) -> None:
    words = COMMANDS["cams cnn"].replace("OUT", "reported").split()
    done = run("cams", "cnn", *words, *LIMIT, cwd=folders["large"])
    assert "12 images are larger than --max-side and computed at 32 pixels on the longer side." in done.err
    assert "larger than" not in run("cams", "cnn", *words, "-f", "--max-side", "64", cwd=folders["large"]).err


@pytest.mark.parametrize("value", ["8", "31", "-1"])
def test_a_limit_that_leaves_nothing_to_see_is_rejected(folders: dict[str, Path], value: str) -> None:
    words = COMMANDS["cams cnn"].replace("OUT", "tiny").split()
    check_error(run("cams", "cnn", *words, "--max-side", value, cwd=folders["large"]), 2,
                f"--max-side {value} is out of range. Use 0, or 32 or more.")
    assert not (folders["large"] / "tiny").exists()
