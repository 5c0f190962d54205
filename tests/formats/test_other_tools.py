"""What `wsss export` writes is read by the code of the tools themselves, in the environment of make test-formats."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.export_readers import Masks, iterate_ious
from cli.runner import run_ok
from cli.test_export_formats import PLAIN, draw_masks, index, write_dataset
from conftest import ROOT

PYTHON = ROOT / ".venv-formats" / "bin" / "python"
SHARED = ROOT.parent / "shared" / "data"
NUM_PHOTOGRAPHS = 25
# Format and its options, the tool, whether ignored pixels are kept; polygons are simplified, everything else is exact.
CASES = {
    "coco": ("coco", (), "datumaro:coco", True),
    "coco polygons": ("coco", ("--segmentation", "polygon"), "datumaro:coco", True),
    "voc": ("voc", (), "datumaro:voc_segmentation", True),
    "cvat masks": ("cvat", ("--shapes", "mask", "--ignored", "keep"), "datumaro:cvat", True),
    "cvat polygons": ("cvat", (), "datumaro:cvat", False),
    "yolo": ("yolo", (), "ultralytics", False),
    "labelme": ("labelme", (), "labelme", True),
    "labelstudio": ("labelstudio", (), "label-studio", False),
    "hf": ("hf", (), "datasets", True),
}
POLYGONS = {"coco polygons", "cvat polygons", "yolo", "labelme"}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> tuple[Path, Masks]:
    """Return an index of awkward shapes, and its masks. VOC has no folders in ids."""
    root = tmp_path_factory.mktemp("shapes")
    masks = {name.replace("/", "_"): mask for name, mask in draw_masks().items()}
    write_dataset(root, masks, PLAIN)
    return index(root), masks


@pytest.fixture(scope="module", params=["voc920", "msrc"])
def photographs(request, tmp_path_factory) -> tuple[Path, Masks]:
    """Return an index of photographs, if there are any beside the repository, and their masks."""
    root = SHARED / request.param
    if not root.is_dir():
        pytest.skip(f"no photographs in {root}")
    folder = tmp_path_factory.mktemp(request.param)
    paths = sorted((root / "SegmentationClass").glob("*.png"))[:NUM_PHOTOGRAPHS]
    (folder / "list.txt").write_text("".join(f"{path.stem}\n" for path in paths))
    run_ok("index", "voc", root, "--list", folder / "list.txt", "--labels", root / "labels.csv", "-o", folder / "i.h5")
    run_ok("export", "png", folder / "i.h5", "-o", folder / "png")
    return folder / "i.h5", {path.stem: np.asarray(Image.open(path)) for path in (folder / "png").glob("*.png")}


def read(tool: str, root: Path) -> Masks:
    """Read an export with another tool in a process of its own."""
    output = root.parent / "masks.npz"
    done = subprocess.run([PYTHON, ROOT / "tests/formats/read_with_other_tools.py", tool, root, output,
                           sysconfig.get_path("purelib")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(output) as arrays:
        return {name[1:]: arrays[name] for name in arrays.files}


def export(name: str, path: Path, root: Path, *more: str) -> None:
    format_name, options, *_ = CASES[name]
    options = (*options, *more)
    for split in ("train", "val") if format_name == "yolo" else ("train",):
        chosen = ("--split", split) if format_name == "yolo" else ()
        run_ok("export", format_name, path, "--images", "copy", *options, *chosen, "-o", root)


def read_both(name: str, truth: Masks, root: Path) -> tuple[Masks, Masks]:
    """Return the masks that a format can hold, and those that the tool has read."""
    *_, tool, keeps_ignored = CASES[name]
    found = read(tool, root)
    return {key: mask if keeps_ignored else np.where(mask == 255, 0, mask) for key, mask in truth.items()}, found


def check_equal(expected: Masks, found: Masks) -> None:
    for key, mask in expected.items():
        np.testing.assert_array_equal(found.get(key, np.zeros_like(mask)), mask, err_msg=key)


@pytest.mark.parametrize("name", list(CASES))
def test_awkward_shapes_are_exact(name, shapes, tmp_path):
    path, truth = shapes
    export(name, path, tmp_path / "out", *(("--tolerance", "0") if name in POLYGONS else ()))
    check_equal(*read_both(name, truth, tmp_path / "out"))


@pytest.mark.parametrize("name", list(CASES))
def test_photographs(name, photographs, tmp_path):
    path, truth = photographs
    export(name, path, tmp_path / "out")
    expected, found = read_both(name, truth, tmp_path / "out")
    if name not in POLYGONS:
        check_equal(expected, found)
        return
    assert set(found) == set(expected)
    assert min(iterate_ious(expected, found, ignores=False)) >= 0.99
