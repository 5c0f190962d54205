"""`info`: show what a shard or network file holds and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.data.index_summary import name_classes, read_summary
from stages.errors import Stopped
from stages.flow.cluster_table import cluster_table
from stages.flow.execution import Stop
from stages.flow.training_images import TRAINING_IMAGES, read_training_images
from stages.nets.net_description import read_verified_description
from stages.shards import Shard, find_shard_files


def describe_files(path: str, stop: Stop) -> list[dict[str, Any]]:
    """Return one description per file below `path`. Raises MissingInput, BadData, Stopped."""
    if path.endswith(".safetensors"):
        return [_describe_net(Path(path))]
    return [_describe_shard(file, stop) for file in find_shard_files(path)]


def _describe_shard(path: Path, stop: Stop) -> dict[str, Any]:
    if stop.requested:
        raise Stopped("stopped by a signal", "Run the same command again")
    shard = Shard(path)
    contents: dict[str, Any] = {
        "path": str(path), "kind": shard.kind, "part": f"{shard.part} of {shard.parts}", "images": len(shard.ids),
        "refused": len(shard.errors), "classes": list(shard.classes), "digest": shard.digest,
    }
    if shard.images_digest:
        contents["images_digest"] = shard.images_digest
    if shard.kind == "index":
        contents["root"] = shard.attribute("root")
        summary = read_summary(shard)
        if summary:
            contents["summary"] = name_classes(summary, shard.classes)
    elif shard.kind == "cams":
        contents["background"] = shard.attribute("background")
    elif shard.kind == "clusters":
        contents["clusters"] = cluster_table(shard)
    if shard.errors:
        contents["errors"] = shard.errors
    contents["ids"] = list(shard.ids)
    contents["provenance"] = shard.provenance
    return contents


def _describe_net(path: Path) -> dict[str, Any]:
    description = read_verified_description(path)
    training_images = read_training_images(description, str(path))
    if training_images is not None:
        description[TRAINING_IMAGES] = f"{len(training_images)} images"
    return {"path": str(path), **description}
