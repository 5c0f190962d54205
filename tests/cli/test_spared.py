"""Pictures and tables never take the place of a shard, a net or somebody's photographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from cli.runner import SMALL, TRAINING, good, refused, run
from pictures import Folder


@pytest.mark.parametrize("command", ["eval", "eval -n", "show", "show -n", "cluster finch"])
def test_a_shard_and_a_net_are_not_replaced_by_something_else(command: str, tiny_index: Path, tiny_net: Path,
                                                             tmp_path: Path) -> None:
    for there in (tiny_index, tiny_net):
        place = Path(shutil.copy(there, tmp_path))
        before = place.read_bytes()
        option = ("-o", tmp_path / "c.h5", "--sheet") if "cluster" in command else ("-o",)
        done = run(*command.split(), tiny_index, *option, place)
        told = "is the name of a shard or a net" if command.startswith("eval") else "is to be a picture"
        refused(done, 2, f"{option[-1]} {place} {told}")
        assert place.read_bytes() == before


def test_photographs_are_not_replaced_by_their_pictures(tiny_folder: Folder, tiny_index: Path, tmp_path: Path) -> None:
    net, photos = tmp_path / "seg.safetensors", tmp_path / "photos"
    good("train-seg", tiny_index, "--masks", "truth", *TRAINING, "-o", net)
    photos.mkdir()
    for name in tiny_folder.ids[:2]:
        Image.open(tiny_folder.root / "JPEGImages" / f"{name}.jpg").save(photos / f"{name}.png", compress_level=1)
    before = {path: path.read_bytes() for path in photos.iterdir()}
    words = ("segment", "net", *sorted(before), "--net", net, *SMALL, "-o")
    for more in ((), ("-n",), ("--force",)):
        refused(run(*words, photos, *more), 2, "its own picture would replace")
    jpeg = tiny_folder.root / "JPEGImages" / f"{tiny_folder.ids[0]}.jpg"
    other = ("segment", "net", jpeg, "--net", net, *SMALL, "-o", photos)
    refused(run(*other), 73, f"{tiny_folder.ids[0]}.png: is there")
    assert before == {path: path.read_bytes() for path in photos.iterdir()}
    good(*other, "--force")
    good(*other)
    assert (photos / f"{tiny_folder.ids[0]}.png").read_bytes() != before[photos / f"{tiny_folder.ids[0]}.png"]
    good(*words, tmp_path / "masks")


@pytest.mark.parametrize("words", [("cooc",), ("merge",), ("index", "split", "--single"), ("cams", "cnn"),
                                   ("train-cls", "cam")])
def test_an_input_is_not_replaced_by_what_is_made_of_it(words, tiny_index, tiny_net, tmp_path):
    index, net = (Path(shutil.copy(there, tmp_path)) for there in (tiny_index, tiny_net))
    before = {path: path.read_bytes() for path in (index, net)}
    more = {"cams": ("--net", net, *SMALL), "train-cls": ("--weights", net, *TRAINING)}.get(words[0], ())
    place = net if words[0] == "train-cls" else index
    told = refused(run(*words, index, *more, "--force", "-o", place), 2, f"-o {place} is an input too")
    assert told.endswith("give another -o")
    assert before == {path: path.read_bytes() for path in before}


def test_a_run_is_not_replaced_by_what_is_made_of_it(tiny_index, tiny_net, tmp_path):
    good("cams", "cnn", tiny_index, "--net", tiny_net, *SMALL, "-o", tmp_path / "cams")
    before = (tmp_path / "cams" / "cams-00000-of-00001.h5").read_bytes()
    words = ("refine", "pamr", tmp_path / "cams", "-o", tmp_path / "cams")
    refused(run(*words), 73, "exists with other settings")
    refused(run(*words, "--force"), 2, "is what it is to be made from")
    assert (tmp_path / "cams" / "cams-00000-of-00001.h5").read_bytes() == before
