"""All readers of wsss as functions of bytes: they return, or raise a WsssError with a message of one line.

`TARGETS[name](data, folder)` writes `data` to a file in `folder` if the reader needs one.
"""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from stages.data.class_names import read_class_names
from stages.data.class_vocabulary import read_words_file
from stages.data.images import decode_image, read_header
from stages.data.layout_webdataset import list_webdataset
from stages.data.mask_values import read_mask_values
from stages.data.masks import decode_mask
from stages.data.shapes import draw_shapes
from stages.data.yolo_config import read_yolo_config, select_split
from stages.flow.background import resolve_background
from stages.flow.execution import Inputs, Output, SilentReport, Stop
from stages.import_.cam_classes import find_class_ids
from stages.import_.cam_files import compute_covers, decode_cam_file, scale_to_unit
from stages.import_.coco_results import read_results
from stages.import_.mask_files import decode_mask_file
from stages.import_.regions import decode_regions
from stages.import_.rle_json import build_shape, parse_json
from stages.index.config import FiftyoneConfig, FolderConfig, ShapesConfig, TableConfig, VocConfig, YoloConfig
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
CLASSES = ("background", "cat", "dog")
_CONFIGS = {"voc": VocConfig(tags_only=True), "table": TableConfig(tags_only=True), "coco": ShapesConfig(),
            "cvat": ShapesConfig(), "labelme": ShapesConfig(), "labelstudio": ShapesConfig(),
            "fiftyone": FiftyoneConfig(), "yolo": YoloConfig()}
REQUEST = {"stage": "pseudo", "config": {"seed": 1}, "inputs": {"index": "ab"}, "part": "0/1"}


def write_file(data: bytes, folder: Path, name: str) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def write_and_read_index(layout: str, folder: Path, path: Path, **named: Path) -> None:
    """Write an index of tags, or with masks if the layout has outlines, and read it."""
    config = _CONFIGS.get(layout, FolderConfig(tags_only=True))
    inputs = Inputs([str(path)], {name: str(path) for name, path in named.items()})
    run_index(layout, config, inputs, Output(folder / "index.h5"), stop=Stop(), report=SilentReport())
    list(Shard(folder / "index.h5").items())


def write_image(folder: Path, name: str = "a.jpg") -> None:
    """Write an image of 8 x 10 pixels."""
    Image.new("RGB", (10, 8)).save(folder / name, "PNG")


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
    suffix = ("csv", "tsv", "jsonl", "txt", "json")[data[0] % 5] if data else "csv"
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
    """Read a file of class names; the first byte chooses its format."""
    suffix = ("txt", "json", "yaml")[data[0] % 3] if data else "txt"
    read_class_names(write_file(data[1:], folder, f"fuzzed.{suffix}"))


def index_coco(data: bytes, folder: Path) -> None:
    """Index by a COCO instances file, whose masks are drawn on an image."""
    write_image(folder)
    write_and_read_index("coco", folder, write_file(data, folder, "fuzzed.json"), images=folder)


def index_yolo(data: bytes, folder: Path) -> None:
    """Index by a YOLO file of labels."""
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    write_image(folder / "images")
    write_file(data, folder / "labels", "a.txt")
    (folder / "data.yaml").write_text("train: images\nnames: [cat, dog]\n")
    write_and_read_index("yolo", folder, folder)


def read_yolo_yaml(data: bytes, folder: Path) -> None:
    """Read data.yaml of a YOLO data set; its images are not listed, since they may be anywhere."""
    select_split(read_yolo_config(write_file(data, folder, "data.yaml")), "train")


def index_cvat(data: bytes, folder: Path) -> None:
    """Index by an XML file of CVAT."""
    write_image(folder)
    write_and_read_index("cvat", folder, write_file(data, folder, "annotations.xml"))


def index_colour_masks(data: bytes, folder: Path) -> None:
    """Index CVAT's masks in colours by their labelmap.txt."""
    for name in ("JPEGImages", "SegmentationClass"):
        (folder / name).mkdir(exist_ok=True)
    write_image(folder / "JPEGImages")
    write_image(folder / "SegmentationClass", "a.png")
    write_file(data, folder, "labelmap.txt")
    write_and_read_index("cvat", folder, folder)


def index_labelme(data: bytes, folder: Path) -> None:
    """Index by a JSON file of LabelMe."""
    write_image(folder)
    write_file(data, folder, "a.json")
    write_and_read_index("labelme", folder, folder)


def index_labelstudio(data: bytes, folder: Path) -> None:
    """Index by the JSON export of Label Studio."""
    write_image(folder)
    write_and_read_index("labelstudio", folder, write_file(data, folder, "fuzzed.json"))


def index_fiftyone(data: bytes, folder: Path) -> None:
    """Index by the samples of a dataset of FiftyOne."""
    write_image(folder)
    write_file(data, folder, "samples.json")
    (folder / "metadata.json").write_text('{"default_mask_targets": {"1": "cat"}}')
    write_and_read_index("fiftyone", folder, folder)


def list_compressed_tar(data: bytes, folder: Path) -> None:
    """List a compressed archive and its images; if the first byte is even, the rest is the archive before gzip."""
    content = gzip.compress(data[1:], 1) if data and data[0] % 2 == 0 else data[1:]
    list_webdataset([write_file(content, folder, "fuzzed.tar")], packs_images=True)


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


def import_mask(data: bytes, folder: Path) -> None:
    """Import a mask: an array, or an image."""
    decode_mask_file(data, where="fuzzed.npy", num_classes=20, size=(2, 3), max_pixels=_PIXELS, mask_values=None)


def import_cams(data: bytes, folder: Path) -> None:
    """Import the CAMs of an image, which other tools pickle."""
    class_maps = decode_cam_file(data, where="fuzzed.npy")
    class_ids = find_class_ids(class_maps.keys, CLASSES, 0, has_background=False, where="fuzzed.npy")
    scale_to_unit(class_maps.maps, where="fuzzed.npy", divide_by_maximum=bool(len(class_ids) % 2))
    compute_covers(class_maps.maps.shape[1:], (2, 3), 0, "fuzzed.npy")


def import_results(data: bytes, folder: Path) -> None:
    """Import instances in COCO's results format, and draw them on images of 2 x 3 pixels."""
    results = read_results(parse_json(data, "fuzzed.json"), ("a", "7"), CLASSES, min_score=0.5, images=None,
                           categories=None, where="fuzzed.json")
    for entries in results.entries.values():
        shapes = [build_shape(entry["segmentation"], class_id=entry["class_id"], layer=layer, where="fuzzed.json")
                  for layer, entry in enumerate(entries)]
        draw_shapes(shapes, (2, 3), len(CLASSES) - 1, remedy="Correct it")


def import_regions(data: bytes, folder: Path) -> None:
    """Import regions; the first byte chooses which of them is on top."""
    on_top = ("smaller", "larger", "score", "order")[data[0] % 4] if data else "smaller"
    decode_regions(data[1:], where="fuzzed.json", size=(2, 3), max_pixels=_PIXELS, on_top=on_top)


def read_values(data: bytes, folder: Path) -> None:
    """Read what the values of masks mean."""
    read_mask_values(str(write_file(data, folder, "fuzzed.txt")), ("background", "cat", "dog"))


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
    "compressed_tar": list_compressed_tar,
    "yolo": index_yolo, "yolo_yaml": read_yolo_yaml, "cvat": index_cvat, "colour_masks": index_colour_masks,
    "labelme": index_labelme, "labelstudio": index_labelstudio, "fiftyone": index_fiftyone,
    "words": read_words, "clip_config": read_clip_config, "recipe": read_recipe, "evaluation": read_evaluation,
    "image": read_image, "mask": read_mask, "mask_values": read_values, "import_mask": import_mask,
    "import_cams": import_cams, "import_results": import_results, "import_regions": import_regions, "net": read_net,
    "weights": read_weights, "torchscript": read_script, "training_state": read_training_state,
    "tagger": install_tagger,
}
