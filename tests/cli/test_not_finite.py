"""A network that gives NaN or an infinity for one image of a batch: that image fails, the others are as without it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.every_command import COMMANDS
from cli.runner import copy_of, index_table, refused, run
from stages.shards import Contents, Item, Run, write_shard

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


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("command", ["cams cnn", "cams gradcam", "features", "segment net"])
def test_in_half_precision_too(command, precision, white_index, every_input, broken_net, tmp_path):
    index, white = white_index
    broken_net(torch.nan)
    done = run(*arguments(command, index, tmp_path / "out"), "--precision", precision, cwd=every_input)
    assert done.code == 65, done.err
    assert white in done.err and "not finite" in done.err


@pytest.mark.parametrize(("command", "value"), [
    *((command, torch.nan) for command in (*METHODS, *PREDICTED)),
    *((command, value) for value in (torch.inf, -torch.inf)
      for command in ("cams cnn", "cams gradcam", "cams mctformer predicted", "segment net", "features"))])
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


def rewrite(source: Path, path: Path, index: Path, **changed: np.ndarray) -> Path:
    """Write a shard of root datasets again, with some of them changed."""
    shard = Run([source]).first
    names = {"features": ("features", "labels"), "cooc": ("counts", "probability", "single_label")}[shard.kind]
    arrays = {name: shard.root(name) for name in names} | changed
    write_shard(path, Contents(shard.kind, shard.classes, ids=list(shard.ids), provenance=shard.provenance,
                               index_digest=shard.index_digest, index_path=str(index), root_datasets=arrays))
    return path


def test_shards_from_elsewhere(every_input, tmp_path):
    index = every_input / "train.h5"
    features = Run([every_input / "features"]).first.root("features").copy()
    features[3, 1] = np.nan
    bad = rewrite(every_input / "features", tmp_path / "f.h5", index, features=features)
    for words in (("finch",), ("kmeans", "--clusters", "2")):
        refused(run("cluster", words[0], bad, *words[1:], "-o", tmp_path / "c.h5"), 65, "not finite")
    for value in (np.nan, -1):
        probability = Run([every_input / "cooc.h5"]).first.root("probability").copy()
        probability[0] = value
        cooc = rewrite(every_input / "cooc.h5", tmp_path / "cooc.h5", index, probability=probability)
        words = COMMANDS["train-cls csd"].replace("cooc.h5", str(cooc)).split(" -o ")[0].split()
        refused(run("train-cls", "csd", *words, "-o", tmp_path / "x.safetensors", cwd=every_input), 65, "cooc.h5",
                "probabilities")
