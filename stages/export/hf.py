"""Hugging Face imagefolder: images, masks and metadata.jsonl per split, and a data set card."""

from __future__ import annotations

import json
from collections.abc import Iterator

from stages.data.masks import encode_mask
from stages.export.config import HfConfig
from stages.export.exported_set import ExportedFile, ExportedSet, compute_class_colours, format_hex


def build_files(exported: ExportedSet, config: HfConfig) -> Iterator[ExportedFile]:
    """Yield SPLIT/masks/<id>.png of each image, SPLIT/metadata.jsonl and README.md.

    `load_dataset("imagefolder", data_dir=OUT)` then has the columns image, mask, id and labels.
    """
    lines = []
    for image in exported.images:
        mask = image.read_mask()
        yield f"{config.split}/masks/{image.id}.png", encode_mask(mask)
        record = {"file_name": f"images/{image.file_name}", "mask_file_name": f"masks/{image.id}.png", "id": image.id,
                  "labels": [exported.classes[class_id] for class_id in exported.list_present(mask)]}
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    yield f"{config.split}/metadata.jsonl", "".join(lines).encode()
    yield "README.md", _build_card(exported)


def _build_card(exported: ExportedSet) -> bytes:
    """Return the data set card: a table of the values of the masks, their class names and colours."""
    colours = compute_class_colours(len(exported.classes) - 1)
    rows = [f"| {class_id} | {name.replace('|', chr(92) + '|')} | {format_hex(colour)} |"
            for class_id, (name, colour) in enumerate(zip(exported.classes, colours, strict=True)) if name]
    text = ["---", "task_categories:", "- image-segmentation", "---", "", "The column `mask` holds class ids:", "",
            "| value | class | colour |", "| --- | --- | --- |", *rows, f"| {exported.ignore_index} | (ignored) | |"]
    return "".join(f"{line}\n" for line in text).encode()
