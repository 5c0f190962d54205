"""All readers of wsss as functions of bytes: they return, or raise a WsssError with a message of one line.

`TARGETS[name](data, folder)` writes `data` to a file in `folder` if the reader needs one.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from stages.data.class_vocabulary import read_words_file
from stages.data.images import decode_image, read_header
from stages.data.masks import decode_mask
from stages.data.tables import read_class_names
from stages.flow.background import resolve_background
from stages.flow.execution import Inputs, Output, SilentReport, Stop
from stages.index.config import FolderConfig, VocConfig
from stages.index.stage import run as run_index
from stages.nets.clip_config import load_config_from_json
from stages.nets.net_files import load_net
from stages.nets.torchscript import read_torchscript
from stages.nets.weights import read_state_dict
from stages.setup.stage import run_nltk
from stages.shards import Journal, Shard, check_shard
from stages.training.checkpoint import Checkpoint
from wsss_cli.recipe import read_section

_PIXELS = 1 << 20
REQUEST = {"stage": "pseudo", "config": {"seed": 1}, "inputs": {"index": "ab"}, "part": "0/1"}


def write_file(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def write_and_read_index(layout: str, folder: Path, path: Path, **named: Path) -> None:
    """Write an index of tags, and read it."""
    config = VocConfig(tags_only=True) if layout == "voc" else FolderConfig(tags_only=True)
    inputs = Inputs([str(path)], {name: str(path) for name, path in named.items()})
    run_index(layout, config, inputs, Output(folder / "index.h5"), stop=Stop(), report=SilentReport())
    list(Shard(folder / "index.h5").items())


def read_shard(data: bytes, folder: Path) -> None:
    """Check a shard and read all its items."""
    path = write_file(data, folder, "fuzzed.h5")
    for fault in check_shard(path):
        raise fault
    list(Shard(path).items())


def resume_journal(data: bytes, folder: Path) -> None:
    """Resume from a journal."""
    Journal(write_file(data, folder, "fuzzed.h5.part"), REQUEST).close()


def index_table(data: bytes, folder: Path) -> None:
    """Index by a table; the first byte chooses its format."""
    suffix = ("csv", "tsv", "jsonl", "txt")[data[0] % 4] if data else "csv"
    write_and_read_index("table", folder, write_file(data[1:], folder, f"fuzzed.{suffix}"), images=folder)


def index_image_list(data: bytes, folder: Path) -> None:
    """Index a VOC folder by a list of images."""
    (folder / "JPEGImages").mkdir(exist_ok=True)
    (folder / "JPEGImages" / "a.jpg").touch()
    write_and_read_index("voc", folder, folder, list=write_file(data, folder, "fuzzed.txt"))


def index_annotation(data: bytes, folder: Path) -> None:
    """Index a VOC folder of one image by its XML annotation."""
    for path in ("JPEGImages", "Annotations"):
        (folder / path).mkdir(exist_ok=True)
    (folder / "JPEGImages" / "a.jpg").touch()
    (folder / "list.txt").write_text("a\n")
    write_file(data, folder / "Annotations", "a.xml")
    write_and_read_index("voc", folder, folder, list=folder / "list.txt")


def read_names(data: bytes, folder: Path) -> None:
    """Read a file of class names."""
    read_class_names(write_file(data, folder, "fuzzed.txt"))


def index_coco(data: bytes, folder: Path) -> None:
    """Index by a COCO instances file."""
    (folder / "a.jpg").touch()
    write_and_read_index("coco", folder, write_file(data, folder, "fuzzed.json"), images=folder)


def index_webdataset(data: bytes, folder: Path) -> None:
    """Index a tar archive."""
    write_and_read_index("webdataset", folder, write_file(data, folder, "fuzzed.tar"))


def read_words(data: bytes, folder: Path) -> None:
    """Read a TOML file of class words."""
    read_words_file(write_file(data, folder, "fuzzed.toml"))


def read_clip_config(data: bytes, folder: Path) -> None:
    """Read the JSON config of a CLIP."""
    load_config_from_json(write_file(data, folder, "fuzzed.json"))


def read_recipe(data: bytes, folder: Path) -> None:
    """Read a TOML recipe."""
    read_section(str(write_file(data, folder, "fuzzed.toml")), "train-cls cam", {"lr", "epochs"})


def read_evaluation(data: bytes, folder: Path) -> None:
    """Read the background from a result of `eval --json`."""
    resolve_background(f"from:{write_file(data, folder, 'fuzzed.json')}")


def read_image(data: bytes, folder: Path) -> None:
    """Decode an image."""
    read_header(data, where="fuzzed.jpg", max_pixels=_PIXELS)
    decode_image(data, where="fuzzed.jpg", max_pixels=_PIXELS, apply_exif=True)


def read_mask(data: bytes, folder: Path) -> None:
    """Decode a mask, which is an image or a MATLAB file."""
    decode_mask(data, where="fuzzed.png", num_classes=20, max_pixels=_PIXELS)


def read_net(data: bytes, folder: Path) -> None:
    """Load a network."""
    load_net(write_file(data, folder, "fuzzed.safetensors"))


def read_weights(data: bytes, folder: Path) -> None:
    """Load weights; the first byte chooses pickle or safetensors."""
    suffix = ("pth", "safetensors")[data[0] % 2] if data else "pth"
    read_state_dict(write_file(data[1:], folder, f"fuzzed.{suffix}"))


def read_script(data: bytes, folder: Path) -> None:
    """Read a TorchScript archive with these bytes as its pickle."""
    code = b'class Net(Module):\n  __parameters__ = ["a", "0", ]\n  __buffers__ = ["b", ]\nclass Plain:\n  x : int\n'
    with zipfile.ZipFile(folder / "fuzzed.pt", "w") as archive:
        for name, content in (("data.pkl", data), ("data/0", bytes(12)), ("code/__torch__.py", code)):
            archive.writestr(f"fuzzed/{name}", content)
    read_torchscript(folder / "fuzzed.pt")


def read_training_state(data: bytes, folder: Path) -> None:
    """Read the checkpoint of an unfinished training."""
    write_file(data, folder, "fuzzed.safetensors.part")
    Checkpoint(folder / "fuzzed.safetensors", REQUEST, is_main_process=False).read()


def install_tagger(data: bytes, folder: Path) -> None:
    """Install NLTK's tagger from an archive."""
    run_nltk(str(write_file(data, folder, "fuzzed.zip")), Output(folder / "nltk"), SilentReport())


# The names are those of the folders of the corpus.
TARGETS: dict[str, Callable[[bytes, Path], None]] = {
    "shard": read_shard, "journal": resume_journal, "table": index_table, "image_list": index_image_list,
    "annotation": index_annotation, "class_names": read_names, "coco": index_coco, "webdataset": index_webdataset,
    "words": read_words, "clip_config": read_clip_config, "recipe": read_recipe, "evaluation": read_evaluation,
    "image": read_image, "mask": read_mask, "net": read_net, "weights": read_weights, "torchscript": read_script,
    "training_state": read_training_state, "tagger": install_tagger,
}
