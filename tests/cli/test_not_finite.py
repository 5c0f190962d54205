"""A network outputs NaN or infinity for one image of a batch: only that image fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.every_command import COMMANDS
from cli.runner import check_error, copy_dataset, index_table, run
from stages.nets.activation_fusion import FusedConvolution
from stages.shards import Item, Run, ShardContents, write_shard

METHODS = ["cams cnn", "cams clip-es", "cams excel", "cams mctformer", "cams gradcam", "features", "segment net",
           *(f"segment {name}" for name in ("maskclip", "sclip", "clearclip", "naclip", "proxyclip", "tcl", "code"))]
PREDICTED = [f"{name} predicted" for name in METHODS if name.startswith("cams")]
WHITE = 0.99  # all channels of a white image exceed this after normalisation with any statistics


@pytest.fixture(scope="module")
def white_index(tiny_dataset, tmp_path_factory) -> tuple[Path, str]:
    """Return an index with one white image, and the id of that image."""
    folder = tmp_path_factory.mktemp("white")
    root = copy_dataset(tiny_dataset, folder / "set")
    name = tiny_dataset.ids[5]
    path = next((root / "JPEGImages").glob(f"{name}.*"))
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size, "white").save(path)
    assert index_table(root, folder / "train.h5").code == 0
    return folder / "train.h5", name


@pytest.fixture
def broken_net(monkeypatch):
    """Return a function that makes the first layer of every network output `value` for white images only."""
    def break_layer(layer: type[torch.nn.Module], value: float) -> None:
        forward = layer.forward

        def broken_forward(self: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
            maps = forward(self, images)
            if getattr(self, "convolution", self).in_channels == 3:
                maps = torch.where((images.flatten(1).amin(1) > WHITE)[:, None, None, None], value, maps)
            return maps
        monkeypatch.setattr(layer, "forward", broken_forward)

    def break_net(value: float) -> None:
        break_layer(torch.nn.Conv2d, value)
        break_layer(FusedConvolution, value)

    return break_net


def build_arguments(command: str, index: Path, output: Path) -> list[str]:
    """Return the arguments of a command on an index; with `predicted` the classes are chosen by their scores."""
    name = command.removesuffix(" predicted")
    words = COMMANDS[name].replace("train.h5", str(index)).split(" -o ")[0].replace("--shard-size 5", "").split()
    more = ["--tags", "predicted:0.5"] if name != command else []
    return [*name.split(), *words, *more, "-o", str(output)]


def read_results(output: Path, kind: str) -> dict[str, Item | np.ndarray]:
    """Return the array of each image of a run that did not fail."""
    output_run = Run([output], kind)
    if kind == "features":
        shard = output_run.first
        rows = shard.read_root("features")
        return {name: rows[index] for index, name in enumerate(shard.ids) if name not in shard.errors}
    dataset = {"cams": "cam", "masks": "mask"}[kind]
    return {name: output_run.item(name).datasets[dataset] for name in output_run.ids if name in output_run}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("command", ["cams cnn", "cams gradcam", "features", "segment net"])
def test_images_fail_in_half_precision_too(command, precision, white_index, every_input, broken_net, tmp_path):
    index, white = white_index
    broken_net(torch.nan)
    done = run(*build_arguments(command, index, tmp_path / "out"), "--precision", precision, cwd=every_input)
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
        complete = run(*build_arguments(command, index, tmp_path / "whole"), cwd=every_input)
        assert complete.code == 0, complete.err
        assert white in read_results(tmp_path / "whole", kind)
    broken_net(value)
    done = run(*build_arguments(command, index, tmp_path / "out"), cwd=every_input)
    arrays = read_results(tmp_path / "out", kind)
    if value is not torch.nan and white in arrays:
        # A ReLU after the first layer may turn minus infinity into 0; then all values are finite, and correct.
        assert value == -torch.inf
        return
    assert done.code == 65, done.err
    assert white in done.err and "not finite" in done.err, done.err
    assert len(arrays) == 11, "the other images are processed"
    if value is torch.nan:
        expected = read_results(tmp_path / "whole", kind)
        for name, array in arrays.items():
            # The order of summation in a convolution depends on the batch size, 1 or 12; masks may differ at a tie.
            np.testing.assert_allclose(array.astype(np.float64), expected[name].astype(np.float64),
                                       atol=0 if kind == "masks" else 4e-3, rtol=1e-4, err_msg=name)


def rewrite_shard(source: Path, path: Path, index: Path, **changed: np.ndarray) -> Path:
    """Copy a shard of root datasets with some of them changed."""
    shard = Run([source]).first
    names = {"features": ("features", "labels"), "cooc": ("counts", "probability", "single_label")}[shard.kind]
    arrays = {name: shard.read_root(name) for name in names} | changed
    write_shard(path, ShardContents(shard.kind, shard.classes, ids=list(shard.ids), provenance=shard.provenance,
                                    index_digest=shard.index_digest, index_path=str(index), root_datasets=arrays))
    return path


def test_shards_with_invalid_values_are_rejected(every_input, tmp_path):
    index = every_input / "train.h5"
    features = Run([every_input / "features"]).first.read_root("features").copy()
    features[3, 1] = np.nan
    bad = rewrite_shard(every_input / "features", tmp_path / "f.h5", index, features=features)
    for words in (("finch",), ("kmeans", "--clusters", "2")):
        check_error(run("cluster", words[0], bad, *words[1:], "-o", tmp_path / "c.h5"), 65, "NaN or infinite values")
    for value in (np.nan, -1):
        probability = Run([every_input / "cooc.h5"]).first.read_root("probability").copy()
        probability[0] = value
        cooc = rewrite_shard(every_input / "cooc.h5", tmp_path / "cooc.h5", index, probability=probability)
        words = COMMANDS["train-cls csd"].replace("cooc.h5", str(cooc)).split(" -o ")[0].split()
        check_error(run("train-cls", "csd", *words, "-o", tmp_path / "x.safetensors", cwd=every_input), 65, "cooc.h5",
                "probabilities")
