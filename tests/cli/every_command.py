"""The arguments of every command that writes, and a folder with all their inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cli.conftest import TRAINING
from cli.runner import SMALL, run_ok
from cli.test_mctformer import SMALL as MCTFORMER
from cli.test_segment_text import QUICK
from cli.test_train_text import CAPTIONS, SHORT, write_archive
from data.test_benchmarks import LAYOUTS, save
from data.test_webdataset import encode_image
from data.test_webdataset import write_archive as write_webdataset
from seeded_clip import ClipRecipe
from tiny_datasets import TinyDataset

TINY = " ".join(TRAINING)
SEEDED = "--clip seeded.json --weights seeded.pt --device cpu"
CLIP = f"{SEEDED} --template {{}} {' '.join(QUICK[2:])}"
# The arguments of each command, which runs in the folder of its inputs; OUT stands for the output.
COMMANDS = {
    "index voc": "set --split train --labels set/labels.csv --class-names set/classes.txt -o OUT.h5",
    "index table": "set/labels.csv --images set/JPEGImages -o OUT.h5",
    "index coco": "coco.json --images set/JPEGImages -o OUT.h5",
    "index folder": "folders -o OUT",
    "index webdataset": "captions.tar -o OUT.h5",
    "index yolo": "yolo --split train -o OUT.h5",
    "index cvat": "cvat -o OUT.h5",
    "index labelme": "set -o OUT.h5",
    "index labelstudio": "project/tasks.json -o OUT.h5",
    "index fiftyone": "fiftyone -o OUT.h5",
    **{f"index {name}": f"{name} -o OUT.h5" for name in LAYOUTS},
    "index split": "train.h5 --single -o OUT.h5",
    "init": "OUT --images set/JPEGImages --tags set/labels.csv",
    "cooc": "train.h5 -o OUT.h5 --plot OUT.png",
    "features": "train.h5 --net net.safetensors --device cpu -o OUT",
    "cluster finch": "features -o OUT.h5 --sheet OUT.png",
    "cluster kmeans": "features --clusters 2 -o OUT.h5",
    **{f"train-cls {name}": f"train.h5 {TINY} -o OUT.safetensors" for name in ("cam", "mixup", "fmix")},
    "train-cls manifold-mixup": f"train.h5 --mix-at input {TINY} -o OUT.safetensors",
    "train-cls subcategory": f"train.h5 --clusters clusters.h5 {TINY} -o OUT.safetensors",
    "train-cls mctformer": f"train.h5 {' '.join(MCTFORMER)} -o OUT.safetensors",
    "train-cls csd": f"train.h5 --base cam --cooc cooc.h5 --masks masks {TINY} -o OUT.safetensors",
    "regions superpixels": "train.h5 --segments 20 --shard-size 5 -j 1 -o OUT",
    "cams cnn": "train.h5 --net net.safetensors --device cpu --shard-size 5 -j 1 -o OUT",
    "cams clip-es": f"train.h5 {SEEDED} -o OUT --save-raw OUT-raw",
    "cams excel": f"train.h5 {SEEDED} --side 64 --calibrated-layers 1 -o OUT --save-raw OUT-raw",
    "cams mctformer": "train.h5 --net mctformer.safetensors --device cpu -o OUT",
    "cams gradcam": "train.h5 --net net.safetensors --layer backbone.layer2 --device cpu -o OUT",
    "train-aff psa": f"train.h5 --cams cams --radius 2 {TINY.replace('--long-side 32,48', '')} -o OUT.safetensors",
    "train-aff irn": f"train.h5 --cams cams --radius 4 {TINY.replace('--long-side 32,48', '')} -o OUT.safetensors",
    "refine crf": "cams --device cpu -o OUT",
    "refine psa": "cams --net psa.safetensors --device cpu -o OUT",
    "refine irn": "cams --net irn.safetensors --device cpu -o OUT",
    "refine pamr": "cams --device cpu -o OUT",
    "refine par": "cams --device cpu -o OUT",
    "refine regions": "masks --regions parts-of-images --rule vote -o OUT",
    "pseudo": "cams -o OUT",
    "bank": "masks --net net.safetensors --erosion 1 --min-area 4 --device cpu -o OUT",
    "train-seg": f"train.h5 --masks masks {TINY.replace('--long-side 32,48', '')} -o OUT.safetensors",
    **{f"train-text {name}": f"captions.h5 --clip seeded.json --weights seeded.pt {' '.join(SHORT)} -o OUT.safetensors"
       for name in ("tcl", "code")},
    "segment net": "train.h5 --net seg.safetensors --device cpu -o OUT --scores OUT-scores",
    **{f"segment {name}": f"train.h5 {CLIP} -o OUT --scores OUT-scores"
       for name in ("naclip", "sclip", "clearclip", "maskclip")},
    **{f"segment {name}": f"train.h5 --net {name}.safetensors --device cpu --template {{}} --iterations 1 "
       f"{' '.join(QUICK[2:])} -o OUT"
       for name in ("tcl", "code")},
    "segment corrclip": f"train.h5 {CLIP} --proxy timm:test_vit --proxy-weights random --regions parts-of-images "
                        "-o OUT",
    "segment retrieve": "train.h5 --regions parts-of-images --bank bank --net net.safetensors --neighbours 3 "
                        "--min-area 4 --device cpu -o OUT",
    "import masks": "set/SegmentationClass --index train.h5 -o OUT",
    "import cams": "irn --index train.h5 -o OUT",
    "import coco": "results.json --index train.h5 --annotations none -o OUT",
    "import regions": "regions --index train.h5 -o OUT",
    "merge": "parts -o OUT.h5",
    "segment proxyclip": f"train.h5 {CLIP} --proxy wsss:tiny --proxy-weights random -o OUT",
    "eval": "cams -o OUT.json",
    "log": "net.safetensors -o OUT.png",
    "show": "cams masks -o OUT.png",
    "report": "cams masks --net net.safetensors -o OUT.html",
    "export png": "masks -o OUT",
    "export voc": "masks --images copy -o OUT",
    "export labelme": "masks --images link -o OUT",
    **{f"export {name}": "masks -o OUT" for name in ("coco", "yolo", "cvat", "labelstudio", "mmseg", "hf")},
    "setup nltk": "--from tagger.zip -o OUT",
}


def create_inputs(folder: Path, tiny_dataset: TinyDataset) -> None:
    """Create all inputs of COMMANDS in a folder."""
    shutil.copytree(tiny_dataset.root, folder / "set")
    shutil.copytree(tiny_dataset.root / "JPEGImages", folder / "folders" / "cat")
    for name, (image, mask, values, _) in LAYOUTS.items():
        save(folder / name / image.format("bonn/bonn_0"), np.array([values], np.uint8), image=True)
        save(folder / name / mask.format("bonn/bonn_0"), np.array([values], np.uint8))
    (folder / "coco.json").write_text(json.dumps({
        "images": [{"id": 1, "file_name": f"{tiny_dataset.ids[0]}.jpg"}], "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"image_id": 1, "category_id": 1}]}))
    create_annotations(folder, tiny_dataset)
    (folder / "results.json").write_text(json.dumps([
        {"image_id": tiny_dataset.ids[0], "category_id": 1, "score": 1, "segmentation": [[4, 4, 40, 4, 40, 30]]}]))
    for name, class_ids in zip(tiny_dataset.ids, tiny_dataset.labels, strict=True):
        (folder / "irn").mkdir(exist_ok=True)
        np.save(folder / "irn" / f"{name}.npy", {class_id - 1: np.full((48, 64), 0.5) for class_id in class_ids},
                allow_pickle=True)
        save(folder / "regions" / f"{name}.png", np.full((48, 64), 3, np.uint8))
    write_webdataset(folder / "captions.tar", k1__png=encode_image(10), k1__txt=b"A red cat")
    write_archive(folder)
    (folder / "templates.txt").write_text("a {}\na photo of a {}\n")
    ClipRecipe(99, 64, 3, 1, 64, 64, 2, 1).write(folder)
    (folder / "captions.csv").write_text("\n".join(("id,caption", *CAPTIONS)))
    for number in range(6):
        save(folder / f"images/p{number}.png", np.zeros((40, 50)), image=True)
    for words in (
            "index table set/labels.csv --images set/JPEGImages --masks set/SegmentationClass -o train.h5",
            "index table captions.csv --images images -o captions.h5", "cooc train.h5 -o cooc.h5",
            f"train-cls cam train.h5 {TINY} -o net.safetensors",
            f"cams cnn train.h5 --net net.safetensors {' '.join(SMALL)} -o cams", "pseudo cams -o masks",
            f"bank {COMMANDS['bank'].replace('OUT', 'bank')}",
            f"import regions {COMMANDS['import regions'].replace('OUT', 'parts-of-images')}",
            "features train.h5 --net net.safetensors --device cpu -o features",
            "cluster finch features -o clusters.h5",
            f"cams cnn train.h5 --net net.safetensors {' '.join(SMALL)} --shard-size 4 -j 1 -o parts",
            *(f"train-text {name} {COMMANDS[f'train-text {name}'].replace('OUT', name)}" for name in ("tcl", "code")),
            f"train-cls mctformer {COMMANDS['train-cls mctformer'].replace('OUT', 'mctformer')}",
            f"train-seg {COMMANDS['train-seg'].replace('OUT', 'seg')}",
            *(f"train-aff {name} {COMMANDS[f'train-aff {name}'].replace('OUT', name)}" for name in ("psa", "irn"))):
        run_ok(*words.split(), "-q", cwd=folder)


def create_annotations(folder: Path, tiny_dataset: TinyDataset) -> None:
    """Create an annotated image in the format of each annotation tool that `index` reads."""
    points, image = [[5, 5], [40, 6], [20, 30]], tiny_dataset.root / "JPEGImages" / f"{tiny_dataset.ids[0]}.jpg"
    for path in ("yolo/images/train", "yolo/labels/train", "cvat/images", "project", "fiftyone/data"):
        (folder / path).mkdir(parents=True)
    for path in ("yolo/images/train", "cvat/images", "project", "fiftyone/data"):
        shutil.copy(image, folder / path / "a.jpg")
    (folder / "yolo" / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    (folder / "yolo" / "labels" / "train" / "a.txt").write_text("0 0.1 0.1 0.6 0.1 0.3 0.6\n")
    (folder / "cvat" / "annotations.xml").write_text(
        '<annotations><image id="0" name="a.jpg" width="64" height="48"><polygon label="cat" points="5,5;40,6;20,30"/>'
        "</image></annotations>")
    (folder / "set" / "a.json").write_text(json.dumps({
        "shapes": [{"label": "cat", "points": points, "shape_type": "polygon"}], "flags": {},
        "imagePath": f"JPEGImages/{tiny_dataset.ids[0]}.jpg", "imageData": None, "imageHeight": 48, "imageWidth": 64}))
    (folder / "project" / "tasks.json").write_text(json.dumps([{"id": 1, "data": {"image": "a.jpg"}, "annotations": [
        {"result": [{"id": "r", "type": "polygonlabels", "value": {"points": points, "polygonlabels": ["cat"]}}]}]}]))
    (folder / "fiftyone" / "samples.json").write_text(json.dumps({"samples": [
        {"filepath": "data/a.jpg", "ground_truth": {"_cls": "Classification", "label": "cat"}}]}))


def list_commands(command: Any, words: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return every command below `command` by its words."""
    if not hasattr(command, "commands"):
        return {" ".join(words): command}
    return {name: subcommand for word, group in command.commands.items() for name, subcommand in
            list_commands(group, (*words, word)).items()}
