"""All readers of wsss as functions of bytes: whatever they are, a reader returns, or raises a WsssError of one line.

`TARGETS[name](data, folder)` puts `data` into `folder` where the reader wants a file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from stages.data.class_words import read_words
from stages.data.images import decode_image, read_header
from stages.data.masks import decode_mask
from stages.data.tables import read_class_names
from stages.flow.background import resolve_background
from stages.flow.execution import Inputs, Output, Silent, Stop
from stages.index.config import FolderConfig, VocConfig
from stages.index.stage import run as run_index
from stages.nets.clip_config import config_from_json
from stages.nets.files import load_net
from stages.nets.torchscript import read_torchscript
from stages.nets.weights import read_state_dict
from stages.setup.stage import run_nltk
from stages.shards import Journal, Shard, check_shard
from stages.training.checkpoint import Checkpoint
from wsss_cli.recipe import section

_PIXELS = 1 << 20
REQUEST = {"stage": "pseudo", "config": {"seed": 1}, "inputs": {"index": "ab"}, "part": "0/1"}


def _file(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _index(layout: str, folder: Path, place: Path, **named: Path) -> None:
    """Write an index of tags, and read it again."""
    config = VocConfig(tags_only=True) if layout == "voc" else FolderConfig(tags_only=True)
    inputs = Inputs([str(place)], {name: str(path) for name, path in named.items()})
    run_index(layout, config, inputs, Output(folder / "index.h5"), stop=Stop(), report=Silent())
    list(Shard(folder / "index.h5").items())


def shard(data: bytes, folder: Path) -> None:
    """Read every item of a shard, and check it."""
    path = _file(data, folder, "fuzzed.h5")
    for fault in check_shard(path):
        raise fault
    list(Shard(path).items())


def journal(data: bytes, folder: Path) -> None:
    """Take over a journal."""
    Journal(_file(data, folder, "fuzzed.h5.part"), REQUEST).close()


def table(data: bytes, folder: Path) -> None:
    """Index by a table, whose kind the first byte chooses."""
    suffix = ("csv", "tsv", "jsonl", "txt")[data[0] % 4] if data else "csv"
    _index("table", folder, _file(data[1:], folder, f"fuzzed.{suffix}"), images=folder)


def image_list(data: bytes, folder: Path) -> None:
    """Index a VOC tree by a list."""
    (folder / "JPEGImages").mkdir(exist_ok=True)
    (folder / "JPEGImages" / "a.jpg").touch()
    _index("voc", folder, folder, list=_file(data, folder, "fuzzed.txt"))


def annotation(data: bytes, folder: Path) -> None:
    """Index a VOC tree of one image by its XML."""
    for place in ("JPEGImages", "Annotations"):
        (folder / place).mkdir(exist_ok=True)
    (folder / "JPEGImages" / "a.jpg").touch()
    (folder / "list.txt").write_text("a\n")
    _file(data, folder / "Annotations", "a.xml")
    _index("voc", folder, folder, list=folder / "list.txt")


def class_names(data: bytes, folder: Path) -> None:
    """Read the names of classes."""
    read_class_names(_file(data, folder, "fuzzed.txt"))


def coco(data: bytes, folder: Path) -> None:
    """Index by the JSON of COCO."""
    (folder / "a.jpg").touch()
    _index("coco", folder, _file(data, folder, "fuzzed.json"), images=folder)


def webdataset(data: bytes, folder: Path) -> None:
    """Index a tar archive."""
    _index("webdataset", folder, _file(data, folder, "fuzzed.tar"))


def words(data: bytes, folder: Path) -> None:
    """Read the words of classes, TOML."""
    read_words(_file(data, folder, "fuzzed.toml"))


def clip_config(data: bytes, folder: Path) -> None:
    """Read the config of a CLIP, JSON."""
    config_from_json(_file(data, folder, "fuzzed.json"))


def recipe(data: bytes, folder: Path) -> None:
    """Read a recipe, TOML."""
    section(str(_file(data, folder, "fuzzed.toml")), "train-cls cam", {"lr", "epochs"})


def evaluation(data: bytes, folder: Path) -> None:
    """Take the background from what `eval --json` wrote."""
    resolve_background(f"from:{_file(data, folder, 'fuzzed.json')}")


def image(data: bytes, folder: Path) -> None:
    """Decode an image."""
    read_header(data, where="fuzzed.jpg", max_pixels=_PIXELS)
    decode_image(data, where="fuzzed.jpg", max_pixels=_PIXELS, apply_exif=True)


def mask(data: bytes, folder: Path) -> None:
    """Decode a mask, a picture or a MATLAB file."""
    decode_mask(data, where="fuzzed.png", n_classes=20, max_pixels=_PIXELS)


def net(data: bytes, folder: Path) -> None:
    """Load a net."""
    load_net(_file(data, folder, "fuzzed.safetensors"))


def weights(data: bytes, folder: Path) -> None:
    """Load weights, a pickle or safetensors as the first byte chooses."""
    suffix = ("pth", "safetensors")[data[0] % 2] if data else "pth"
    read_state_dict(_file(data[1:], folder, f"fuzzed.{suffix}"))


def torchscript(data: bytes, folder: Path) -> None:
    """Read a TorchScript archive, whose pickle the bytes are."""
    code = b'class Net(Module):\n  __parameters__ = ["a", "0", ]\n  __buffers__ = ["b", ]\nclass Plain:\n  x : int\n'
    with zipfile.ZipFile(folder / "fuzzed.pt", "w") as archive:
        for name, content in (("data.pkl", data), ("data/0", bytes(12)), ("code/__torch__.py", code)):
            archive.writestr(f"fuzzed/{name}", content)
    read_torchscript(folder / "fuzzed.pt")


def training_state(data: bytes, folder: Path) -> None:
    """Read the state of an unfinished training."""
    _file(data, folder, "fuzzed.safetensors.part")
    Checkpoint(folder / "fuzzed.safetensors", REQUEST, leads=False).read()


def tagger(data: bytes, folder: Path) -> None:
    """Put NLTK's tagger from an archive."""
    run_nltk(str(_file(data, folder, "fuzzed.zip")), Output(folder / "there"), Silent())


TARGETS: dict[str, Callable[[bytes, Path], None]] = {one.__name__: one for one in (
    shard, journal, table, image_list, annotation, class_names, coco, webdataset, words, clip_config, recipe,
    evaluation, image, mask, net, weights, torchscript, training_state, tagger)}
