"""The commands into whose disk calls faults are injected, and the small inputs that they read.

Five images give two parts (three and two) in batches of two: small enough to take a tenth of a second, and large enough
for a second batch, a second part and a companion run. Methods that differ from another only in their mathematics have
one part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from crash.commands import Server
from seeded_clip import ClipRecipe
from tiny_datasets import create_dataset

SERIAL_CPU = ("--device", "cpu", "--threads", "1", "-j", "1")
TWO_PARTS = ("--shard-size", "3", *SERIAL_CPU)
SERIAL = ("--threads", "1", "-j", "1")
TRAINING = ("--threads", "1", "--device", "cpu", "--batch-size", "2", "--workers", "0")
NET = ("--net", "wsss:tiny", "--crop-size", "32", "--epochs", "2", *TRAINING)
CLIP = ("--clip", "../inputs/seeded.json", "--weights", "../inputs/seeded.pt")
TEXT = (*CLIP, "--template", "a photo of a {}.", "--short-side", "32", "--window", "32", "--stride", "32")


@dataclass(frozen=True)
class Command:
    """A command, run in the folder `work` next to `inputs`, and an option with a changed value.

    `kind` is what it writes: "shards" (part by part), "net", or "files" (each at once). `required_package` is an
    optional dependency.
    """

    name: str
    kind: str
    args: tuple[str, ...]
    changed_option: tuple[str, ...] = ()
    required_package: str = ""


def shards_command(name: str, *args: str, changed_option: tuple[str, ...], required_package: str = "") -> Command:
    return Command(name, "shards", (*args, "-o", "out"), changed_option, required_package)


def net_command(name: str, *args: str, changed_option: tuple[str, ...] = ("--lr", "0.002"),
                required_package: str = "") -> Command:
    return Command(name, "net", (*args, "-o", "out/net.safetensors"), changed_option, required_package)


def files_command(name: str, *args: str, changed_option: tuple[str, ...] = ()) -> Command:
    return Command(name, "files", args, changed_option)


_INDEX = "../inputs/train.h5"
COMMANDS = {command.name: command for command in (
    shards_command("features", "features", _INDEX, "--net", "../inputs/cam.safetensors", "--batch-size", "2",
                   *SERIAL_CPU, changed_option=("--size", "48")),
    shards_command("cams-cnn", "cams", "cnn", _INDEX, "--net", "../inputs/cam.safetensors", "--scales", "1",
                   "--batch-size", "2", *TWO_PARTS, changed_option=("--scales", "1,2")),
    # Another run to reuse is the changed option: with batches, the provenance names the run.
    shards_command("cams-reuse", "cams", "cnn", _INDEX, "--net", "../inputs/cam.safetensors", "--scales", "1",
                   "--batch-size", "2", "--reuse", "../inputs/fewer", *TWO_PARTS,
                   changed_option=("--reuse", "../inputs/cams")),
    shards_command("cams-clip-es", "cams", "clip-es", _INDEX, *CLIP, "--save-raw", "out/raw", "--batch-size", "2",
                   *SERIAL_CPU, changed_option=("--rounds", "2")),
    shards_command("cams-excel", "cams", "excel", _INDEX, *CLIP, "--save-raw", "out/raw", "--batch-size", "2",
                   "--calibrated-layers", "1", *SERIAL_CPU, changed_option=("--rounds", "2")),
    shards_command("refine-crf", "refine", "crf", "../inputs/maps", "--iterations", "1", *SERIAL,
                   changed_option=("--iterations", "2"), required_package="pydensecrf"),
    shards_command("refine-psa", "refine", "psa", "../inputs/maps", "--net", "../inputs/psa.safetensors", "--device",
                   "cpu", *SERIAL, changed_option=("--beta", "3"), required_package="pydensecrf"),
    shards_command("refine-irn", "refine", "irn", "../inputs/maps", "--net", "../inputs/irn.safetensors", "--device",
                   "cpu", *SERIAL, changed_option=("--beta", "3"), required_package="pydensecrf"),
    shards_command("refine-pamr", "refine", "pamr", "../inputs/maps", "--iterations", "1", "--device", "cpu", *SERIAL,
                   changed_option=("--iterations", "2")),
    shards_command("refine-par", "refine", "par", "../inputs/maps", "--iterations", "1", "--device", "cpu", *SERIAL,
                   changed_option=("--iterations", "2")),
    shards_command("refine-regions", "refine", "regions", "../inputs/masks", "--regions", "../inputs/regions", "--rule",
                   "vote", *SERIAL, changed_option=("--rule", "sepl")),
    shards_command("pseudo", "pseudo", "../inputs/cams", *SERIAL, changed_option=("--background", "constant:0.4")),
    shards_command("import-masks", "import", "masks", "../inputs/pictures/SegmentationClass", "--index", _INDEX,
                   "--shard-size", "3", "-j", "1", changed_option=("--mask-values", "255=ignore")),
    shards_command("regions-superpixels", "regions", "superpixels", _INDEX, "--segments", "6", "--shard-size", "3",
                   "-j", "1", changed_option=("--segments", "9"), required_package="skimage"),
    shards_command("segment-net", "segment", "net", _INDEX, "--net", "../inputs/seg.safetensors", "--scales", "1",
                   "--batch-size", "2", "--scores", "out/scores", *TWO_PARTS, changed_option=("--fusion", "max")),
    shards_command("segment-naclip", "segment", "naclip", _INDEX, *TEXT, *SERIAL_CPU, changed_option=("--scale", "10")),
    shards_command("bank", "bank", "../inputs/masks", "--net", "../inputs/cam.safetensors", "--erosion", "0",
                   "--min-area", "4", *SERIAL_CPU, changed_option=("--min-area", "8")),
    shards_command("segment-corrclip", "segment", "corrclip", _INDEX, *TEXT, "--proxy", "timm:test_vit",
                   "--proxy-weights", "random", *SERIAL_CPU, changed_option=("--sharpness", "10")),
    Command("segment-files", "shards", ("segment", "net", "../inputs/pictures/JPEGImages/picture_000.jpg",
                                        "../inputs/pictures/JPEGImages/picture_001.jpg", "--net",
                                        "../inputs/seg.safetensors", "--scales", "1", *SERIAL_CPU, "-o", "out"),
            ("--fusion", "max")),
    net_command("train-cls", "train-cls", "cam", _INDEX, "--average", "0.9", *NET),
    net_command("train-seg", "train-seg", _INDEX, "--masks", "../inputs/masks", "--weights",
                "../inputs/cam.safetensors", *NET),
    net_command("train-aff-psa", "train-aff", "psa", _INDEX, "--cams", "../inputs/cams", "--radius", "2", *NET,
                required_package="pydensecrf"),
    net_command("train-aff-irn", "train-aff", "irn", _INDEX, "--cams", "../inputs/cams", "--radius", "4", *NET,
                required_package="pydensecrf"),
    net_command("train-text", "train-text", "tcl", "../inputs/captions.h5", *CLIP, *TRAINING, "--crop-size", "32",
                "--warmup", "1", "--steps", "4", "--save-every", "2", "--unfreeze-at", "2"),
    files_command("index", "index", "table", "../inputs/pictures/labels.csv", "--images",
                  "../inputs/pictures/JPEGImages",
                  "--masks", "../inputs/pictures/SegmentationClass", "--shard-size", "3", "-o", "out",
                  changed_option=("--pack",)),
    files_command("init", "init", "out", "--images", "../inputs/pictures/JPEGImages", "--tags",
                  "../inputs/pictures/labels.csv", "--force"),
    files_command("index-hold-out", "index", "split", _INDEX, "--holdout", "0.3", "--held-out", "out/val.h5", "-o",
                  "out/train.h5"),
    files_command("index-split", "index", "split", _INDEX, "--single", "-o", "out/single.h5"),
    files_command("merge", "merge", "../inputs/cams", "--parts", "2", "-o", "out"),
    files_command("cluster", "cluster", "finch", "../inputs/features", "-o", "out/clusters.h5", "--sheet",
                  "out/sheet.png", changed_option=("--metric", "euclidean")),
    files_command("cooc", "cooc", _INDEX, "-o", "out/cooc.h5", "--plot", "out/cooc.png",
                  changed_option=("--diagonal", "all")),
    files_command("export-voc", "export", "voc", "../inputs/masks", "-o", "out"),
    files_command("export-coco", "export", "coco", "../inputs/masks", "--images", "copy", "-o", "out"),
    files_command("show", "show", "../inputs/cams", "../inputs/masks", "--count", "2", "-o", "out/look.png"),
    files_command("report", "report", "../inputs/cams", "../inputs/masks", "-o", "out/report.html",
                  changed_option=("--limit", "2")),
    files_command("log", "log", "../inputs/curves.jsonl", "-o", "out/curves.png"),
    files_command("eval", "eval", "../inputs/masks", "-o", "out/eval.json", "--per-image", "out/images.csv",
                  "--confusion", "out/confusion.csv"),
)}


def create_inputs(server: Server) -> None:
    """Write the inputs of the commands to the folder `inputs` next to the working folder."""
    folder = server.root / "inputs"
    create_dataset(folder / "pictures", n=5, size=(32, 40))
    for seed, target in ((99, folder), (98, folder / "other")):
        target.mkdir(exist_ok=True)
        ClipRecipe(seed, 64, 2, 1, 64, 64, 2, 1).write(target)
    write_captions(folder)
    # A log of its own: faults are injected into those that trainings write.
    (folder / "curves.jsonl").write_text('{"epoch": 1, "step": 2, "loss": 0.5}\n{"epoch": 2, "step": 4, "loss": 0.4}\n')
    server.clear_work()
    pictures = "../inputs/pictures"
    server.run_ok("index", "table", f"{pictures}/labels.csv", "--images", f"{pictures}/JPEGImages", "--masks",
                  f"{pictures}/SegmentationClass", "-o", _INDEX)
    server.run_ok("index", "table", "../inputs/captions.csv", "--images", "../inputs/captioned", "-o",
                  "../inputs/captions.h5")
    one_epoch = ("--epochs", "1")
    server.run_ok("train-cls", "cam", _INDEX, *NET, *one_epoch, "-o", "../inputs/cam.safetensors")
    server.run_ok(*redirect_output(COMMANDS["features"], "../inputs/features"))
    server.run_ok(*redirect_output(COMMANDS["cams-cnn"], "../inputs/cams"))
    server.run_ok(*redirect_output(COMMANDS["cams-cnn"], "../inputs/maps"), "--shard-size", "5")
    write_first_tags(folder, 2)
    server.run_ok("index", "table", "../inputs/fewer.csv", "--images", f"{pictures}/JPEGImages", "-o",
                  "../inputs/fewer.h5")
    server.run_ok("cams", "cnn", "../inputs/fewer.h5", *redirect_output(COMMANDS["cams-cnn"], "../inputs/fewer")[3:])
    server.run_ok(*redirect_output(COMMANDS["pseudo"], "../inputs/masks"))
    server.run_ok("import", "regions", f"{pictures}/SegmentationClass", "--index", _INDEX, "--none-value", "255", "-o",
                  "../inputs/regions")
    server.run_ok("train-seg", _INDEX, "--masks", "../inputs/masks", *NET, *one_epoch, "-o",
                  "../inputs/seg.safetensors")


def train_affinity_nets(server: Server) -> None:
    """Train the networks of the random walks; their labels need the CRF."""
    for name in ("psa", "irn"):
        server.run_ok(*COMMANDS[f"train-aff-{name}"].args[:-1], f"../inputs/{name}.safetensors", "--epochs", "1")


def redirect_output(command: Command, output: str) -> tuple[str, ...]:
    return (*command.args[:-1], output)


def write_first_tags(folder: Path, count: int) -> None:
    """Write a table of tags with the first images only."""
    lines = (folder / "pictures/labels.csv").read_text().splitlines()
    (folder / "fewer.csv").write_text("\n".join(lines[:1 + count]) + "\n")


def write_captions(folder: Path) -> None:
    (folder / "captioned").mkdir()
    random, rows = np.random.default_rng(0), ["id,caption"]
    for number, caption in enumerate(("A red dog", "Two cats near a car", "A horse", "A boat on the sea")):
        Image.fromarray(random.integers(0, 255, (32, 40, 3), dtype=np.uint8)).save(folder / f"captioned/p{number}.png")
        rows.append(f"p{number},{caption}")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
