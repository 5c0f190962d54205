"""A network that gives NaN or an infinity for one image of a batch: that image fails, the others are as without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.every_command import COMMANDS
from cli.runner import copy_of, index_table, run
from stages.shards import Item, Run

METHODS = ["cams cnn", "cams clip-es", "cams mctformer", "cams gradcam", "features", "segment net",
           *(f"segment {name}" for name in ("maskclip", "sclip", "clearclip", "naclip", "proxyclip", "tcl", "code"))]
PREDICTED = [f"{name} predicted" for name in METHODS if name.startswith("cams")]
WHITE = 0.99  # what every channel of a white image exceeds, whatever its statistics


@pytest.fixture(scope="module")
def white_index(tiny_folder, tmp_path_factory) -> tuple[Path, str]:
    """Return an index whose image of the returned id is white, and that id."""
    place = tmp_path_factory.mktemp("white")
    root = copy_of(tiny_folder, place / "set")
    name = tiny_folder.ids[5]
    path = next((root / "JPEGImages").glob(f"{name}.*"))
    with Image.open(path) as picture:
        size = picture.size
    Image.new("RGB", size, "white").save(path)
    assert index_table(root, place / "train.h5").code == 0
    return place / "train.h5", name


@pytest.fixture
def broken_net(monkeypatch):
    """Return a function that lets every first layer give `value` for a white image, and nothing else."""
    forward = torch.nn.Conv2d.forward

    def break_it(value: float) -> None:
        def broken(self: torch.nn.Conv2d, images: torch.Tensor) -> torch.Tensor:
            maps = forward(self, images)
            if self.in_channels == 3:
                maps = torch.where((images.flatten(1).amin(1) > WHITE)[:, None, None, None], value, maps)
            return maps
        monkeypatch.setattr(torch.nn.Conv2d, "forward", broken)

    return break_it


def arguments(command: str, index: Path, output: Path) -> list[str]:
    """Return the words of a command on an index; `predicted` chooses the classes by their scores."""
    name = command.removesuffix(" predicted")
    words = COMMANDS[name].replace("train.h5", str(index)).split(" -o ")[0].replace("--shard-size 5", "").split()
    more = ["--tags", "predicted:0.5"] if name != command else []
    return [*name.split(), *words, *more, "-o", str(output)]


def results(output: Path, kind: str) -> dict[str, Item | np.ndarray]:
    """Return what a run holds of each good image."""
    made = Run([output], kind)
    if kind == "features":
        rows = made.first.root("features")
        return {name: rows[place] for place, name in enumerate(made.first.ids) if name not in made.first.errors}
    return {name: made.item(name).datasets[{"cams": "cam", "masks": "mask"}[kind]] for name in made.ids if name in made}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("command", [*METHODS, *PREDICTED])
def test_only_the_affected_image_fails(command, value, white_index, every_input, broken_net, tmp_path):
    index, white = white_index
    kind = {"cams": "cams", "features": "features"}.get(command.split()[0], "masks")
    if value is torch.nan:
        whole = run(*arguments(command, index, tmp_path / "whole"), cwd=every_input)
        assert whole.code == 0, whole.err
        assert white in results(tmp_path / "whole", kind)
    broken_net(value)
    done = run(*arguments(command, index, tmp_path / "out"), cwd=every_input)
    found = results(tmp_path / "out", kind)
    if value is not torch.nan and white in found:
        # A ReLU behind the first layer may turn minus infinity into 0; then all is finite, and right.
        assert value == -torch.inf
        return
    assert done.code == 65, done.err
    assert white in done.err and "not finite" in done.err, done.err
    assert len(found) == 11, "the run goes on"
    if value is torch.nan:
        expected = results(tmp_path / "whole", kind)
        for name, array in found.items():
            # Alone or in a batch of 12 the sums of a convolution have another order; masks may differ at a tie.
            np.testing.assert_allclose(array.astype(np.float64), expected[name].astype(np.float64),
                                       atol=0 if kind == "masks" else 4e-3, rtol=1e-4, err_msg=name)
