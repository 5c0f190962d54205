"""The commands whose every call to the disk is put to the test, and the small inputs that they read.

Five pictures make two parts (three and two) in batches of two: small enough for a tenth of a second, and large enough
for a batch behind another, a part behind another, a second run beside the first. Where a method differs from another
in its mathematics alone, one part does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from crash.commands import Server
from pictures import make_folder
from seeded_clip import Recipe

ALONE = ("--device", "cpu", "--threads", "1", "-j", "1")
PARTS = ("--shard-size", "3", *ALONE)
MAPPED = ("--threads", "1", "-j", "1")
TRAINING = ("--threads", "1", "--device", "cpu", "--batch-size", "2", "--workers", "0")
NET = ("--net", "wsss:tiny", "--crop-size", "32", "--epochs", "2", *TRAINING)
CLIP = ("--clip", "../inputs/seeded.json", "--weights", "../inputs/seeded.pt")
TEXT = (*CLIP, "--template", "a photo of a {}.", "--short-side", "32", "--window", "32", "--stride", "32")


@dataclass(frozen=True)
class Command:
    """A command, run in the folder `work` beside `inputs`, and the option that `other` gives another value.

    `kind` says what it makes: "shards" (part by part), "net", or "files" (each at once). `needs` is a package that is
    an extra.
    """

    name: str
    kind: str
    args: tuple[str, ...]
    other: tuple[str, ...] = ()
    needs: str = ""


def _shards(name: str, *args: str, other: tuple[str, ...], needs: str = "") -> Command:
    return Command(name, "shards", (*args, "-o", "out"), other, needs)


def _net(name: str, *args: str, other: tuple[str, ...] = ("--lr", "0.002"), needs: str = "") -> Command:
    return Command(name, "net", (*args, "-o", "out/net.safetensors"), other, needs)


def _files(name: str, *args: str, other: tuple[str, ...] = ()) -> Command:
    return Command(name, "files", args, other)


_INDEX = "../inputs/train.h5"
COMMANDS = {one.name: one for one in (
    _shards("features", "features", _INDEX, "--net", "../inputs/cam.safetensors", "--batch-size", "2", *ALONE,
            other=("--size", "48")),
    _shards("cams-cnn", "cams", "cnn", _INDEX, "--net", "../inputs/cam.safetensors", "--scales", "1", "--batch-size",
            "2", *PARTS, other=("--scales", "1,2")),
    _shards("cams-clip-es", "cams", "clip-es", _INDEX, *CLIP, "--save-raw", "out/raw", "--batch-size", "2", *ALONE,
            other=("--rounds", "2")),
    _shards("refine-crf", "refine", "crf", "../inputs/maps", "--iterations", "1", *MAPPED, other=("--iterations", "2"),
            needs="pydensecrf"),
    _shards("refine-psa", "refine", "psa", "../inputs/maps", "--net", "../inputs/psa.safetensors", "--device", "cpu",
            *MAPPED, other=("--beta", "3"), needs="pydensecrf"),
    _shards("refine-irn", "refine", "irn", "../inputs/maps", "--net", "../inputs/irn.safetensors", "--device", "cpu",
            *MAPPED, other=("--beta", "3"), needs="pydensecrf"),
    _shards("refine-pamr", "refine", "pamr", "../inputs/maps", "--iterations", "1", "--device", "cpu", *MAPPED,
            other=("--iterations", "2")),
    _shards("pseudo", "pseudo", "../inputs/cams", *MAPPED, other=("--background", "constant:0.4")),
    _shards("segment-net", "segment", "net", _INDEX, "--net", "../inputs/seg.safetensors", "--scales", "1",
            "--batch-size", "2", "--scores", "out/scores", *PARTS, other=("--fusion", "max")),
    _shards("segment-naclip", "segment", "naclip", _INDEX, *TEXT, *ALONE, other=("--scale", "10")),
    Command("segment-files", "shards", ("segment", "net", "../inputs/pictures/JPEGImages/picture_000.jpg",
                                        "../inputs/pictures/JPEGImages/picture_001.jpg", "--net",
                                        "../inputs/seg.safetensors", "--scales", "1", *ALONE, "-o", "out"),
            ("--fusion", "max")),
    _net("train-cls", "train-cls", "cam", _INDEX, "--average", "0.9", *NET),
    _net("train-seg", "train-seg", _INDEX, "--masks", "../inputs/masks", "--weights", "../inputs/cam.safetensors",
         *NET),
    _net("train-aff-psa", "train-aff", "psa", _INDEX, "--cams", "../inputs/cams", "--radius", "2", *NET,
         needs="pydensecrf"),
    _net("train-aff-irn", "train-aff", "irn", _INDEX, "--cams", "../inputs/cams", "--radius", "4", *NET,
         needs="pydensecrf"),
    _net("train-text", "train-text", "tcl", "../inputs/captions.h5", *CLIP, *TRAINING, "--crop-size", "32", "--warmup",
         "1", "--steps", "4", "--save-every", "2", "--unfreeze-at", "2"),
    _files("index", "index", "table", "../inputs/pictures/labels.csv", "--images", "../inputs/pictures/JPEGImages",
           "--masks", "../inputs/pictures/SegmentationClass", "--shard-size", "3", "-o", "out", other=("--pack",)),
    _files("index-split", "index", "split", _INDEX, "--single", "-o", "out/single.h5"),
    _files("merge", "merge", "../inputs/cams", "--parts", "2", "-o", "out"),
    _files("cluster", "cluster", "finch", "../inputs/features", "-o", "out/clusters.h5", "--sheet", "out/sheet.png",
           other=("--metric", "euclidean")),
    _files("cooc", "cooc", _INDEX, "-o", "out/cooc.h5", "--plot", "out/cooc.png", other=("--diagonal", "all")),
    _files("export-voc", "export", "voc", "../inputs/masks", "-o", "out"),
    _files("show", "show", "../inputs/cams", "../inputs/masks", "--count", "2", "-o", "out/look.png"),
    _files("eval", "eval", "../inputs/masks", "-o", "out/eval.json"),
)}


def make_inputs(server: Server) -> None:
    """Write what the commands read to the folder `inputs` beside the work."""
    folder = server.place / "inputs"
    make_folder(folder / "pictures", n=5, size=(32, 40))
    for seed, where in ((99, folder), (98, folder / "other")):
        where.mkdir(exist_ok=True)
        Recipe(seed, 64, 2, 1, 64, 64, 2, 1).write(where)
    _captions(folder)
    server.fresh()
    pictures = "../inputs/pictures"
    server.good("index", "table", f"{pictures}/labels.csv", "--images", f"{pictures}/JPEGImages", "--masks",
                f"{pictures}/SegmentationClass", "-o", _INDEX)
    server.good("index", "table", "../inputs/captions.csv", "--images", "../inputs/captioned", "-o",
                "../inputs/captions.h5")
    one = ("--epochs", "1")
    server.good("train-cls", "cam", _INDEX, *NET, *one, "-o", "../inputs/cam.safetensors")
    server.good(*_to(COMMANDS["features"], "../inputs/features"))
    server.good(*_to(COMMANDS["cams-cnn"], "../inputs/cams"))
    server.good(*_to(COMMANDS["cams-cnn"], "../inputs/maps"), "--shard-size", "5")
    server.good(*_to(COMMANDS["pseudo"], "../inputs/masks"))
    server.good("train-seg", _INDEX, "--masks", "../inputs/masks", *NET, *one, "-o", "../inputs/seg.safetensors")


def make_affinities(server: Server) -> None:
    """Write the nets that the random walks read; their labels need the CRF."""
    for name in ("psa", "irn"):
        server.good(*COMMANDS[f"train-aff-{name}"].args[:-1], f"../inputs/{name}.safetensors", "--epochs", "1")


def _to(command: Command, output: str) -> tuple[str, ...]:
    return (*command.args[:-1], output)


def _captions(folder: Path) -> None:
    (folder / "captioned").mkdir()
    draws, rows = np.random.default_rng(0), ["id,caption"]
    for number, caption in enumerate(("A red dog", "Two cats near a car", "A horse", "A boat on the sea")):
        Image.fromarray(draws.integers(0, 255, (32, 40, 3), dtype=np.uint8)).save(folder / f"captioned/p{number}.png")
        rows.append(f"p{number},{caption}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
