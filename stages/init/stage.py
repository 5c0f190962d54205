"""`init`: inspects photographs and tags, and writes a Makefile for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from stages.errors import CannotCreate, UsageError
from stages.flow.device import count_cores
from stages.flow.execution import Inputs, Output, Report, Stop, Summary
from stages.init.chosen_settings import choose_settings
from stages.init.config import InitConfig
from stages.init.estimate import estimate_minutes, measure_calibration
from stages.init.makefile import is_prerequisite, quote_for_make, render_template
from stages.init.photographs import Photographs, inspect_photographs
from stages.shards.disk import make_folder, replace_file

_SEG_EPOCHS = 12
_AFFINITY_EPOCHS = 6
_SECONDS_PER_COMMAND = 5.0  # imports, loading weights, and writing
_TORCHVISION_INPUT = "--mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
_FILES = {"Makefile": "Makefile.jinja", "README.md": "README.jinja"}


def run(config: InitConfig, inputs: Inputs, output: Output, *, stop: Stop, report: Report) -> Summary:
    """Write FOLDER/Makefile and FOLDER/README.md, and say how long `make` will take.

    Raises UsageError, MissingInput, BadData (of the photographs or tags), CannotCreate if one of the files exists.
    """
    folder = _read_folder(inputs)
    images, tags, masks, weights = (inputs.named.get(name) for name in ("images", "tags", "masks", "weights"))
    _check_files(folder, config, inputs, output)
    report.start_phase("reading the tags")
    found = inspect_photographs(Path(images or ""), Path(tags) if tags else None, Path(masks) if masks else None)
    for note in found.notes:
        report.info(note)
    report.start_phase("estimating the time")
    values = _collect_values(config, folder, found, images or "", tags, masks, weights)
    if output.dry_run:
        report.info(f"Would write {folder / 'Makefile'} for {found.num_images} photographs.")
        return Summary()
    make_folder(folder)
    for name, template in _FILES.items():
        replace_file(folder / name, render_template(template, values).encode())
        report.print_path(folder / name)
    report.info(f"{found.num_images} photographs of {found.num_classes} classes. {values['estimate']}")
    report.info(f"Now run: make -C {quote_for_make(str(folder))}")
    return Summary(num_written=len(_FILES), written_noun="file", num_images=found.num_images)


def _read_folder(inputs: Inputs) -> Path:
    paths = list(inputs.paths)
    if len(paths) != 1:
        raise UsageError(f"init takes one folder to write to, not {len(paths)}",
                         "For example: wsss init project --images photos --tags tags.csv")
    return Path(paths[0])


def _check_files(folder: Path, config: InitConfig, inputs: Inputs, output: Output) -> None:
    if not inputs.named.get("images"):
        raise UsageError("--images is missing", "Give the folder of the photographs: --images photos")
    if inputs.named.get("masks") and not inputs.named.get("tags"):
        raise UsageError("--masks needs a table of tags", "Add --tags TABLE")
    if bool(config.mean) != bool(config.std):
        raise UsageError("--mean and --std are given together", "Give both, or neither")
    if folder.exists() and not folder.is_dir():
        raise CannotCreate("is a file, but init writes a folder", "Choose another folder", where=str(folder))
    for name in _FILES:
        if (folder / name).exists() and not output.force:
            raise CannotCreate("already exists", "Use --force to replace it, or choose another folder",
                               where=str(folder / name))


def _collect_values(config: InitConfig, folder: Path, found: Photographs, images: str, tags: str | None,
                    masks: str | None, weights: str | None) -> dict[str, Any]:
    """Return what the templates need."""
    num_training = max(1, round(found.num_images * (1 - config.holdout)))
    chosen = choose_settings(num_training)
    is_file = weights is not None and Path(weights).exists()
    tags_path = _locate(tags, folder) if tags else ""
    train = "train" if config.holdout else "index"
    has_classifier = config.method != "clip-es"
    steps = ["index", *(["train"] if config.holdout else []), *(["classifier"] if has_classifier else []), "maps",
             *(["affinity", "walked"] if config.method == "affinity" else []), "refined", "masks", "network",
             *(["predictions"] if config.holdout else [])]
    return {
        "title": folder.resolve().name, "method": config.method, "seed": config.seed, "holdout": config.holdout,
        "holdout_percent": f"{100 * config.holdout:g}", "num_images": found.num_images,
        "num_classes": found.num_classes, "num_training": num_training, "chosen": chosen, "train": train,
        "steps": " ".join(steps), "refined_from": "walked" if config.method == "affinity" else "maps",
        "images": quote_for_make(_locate(images, folder)), "tags": quote_for_make(tags_path) if tags else "",
        "tags_is_prerequisite": bool(tags) and is_prerequisite(tags_path),
        "masks": quote_for_make(_locate(masks, folder)) if masks else "",
        "weights": quote_for_make(_locate(weights, folder) if is_file else weights) if weights else "",
        "input": _describe_input(config, is_file), "seg_epochs": _SEG_EPOCHS,
        "seg_net": "$(NET) --weights classifier.safetensors" if has_classifier
                   else "--net torchvision:mobilenet_v2 --stride 16 --freeze features.3",
        "estimate": _describe_estimate(config, found, num_training, chosen.epochs)}


def _locate(path: str, folder: Path) -> str:
    """Return a path as the Makefile in `folder` has to name it: relative if both lie in one folder, else absolute."""
    absolute, base = Path(path).absolute(), folder.absolute()
    return os.path.relpath(absolute, base) if base.parent in absolute.parents else str(absolute)


def _describe_input(config: InitConfig, is_file: bool) -> str:
    if config.mean:
        return f"--mean {','.join(map(str, config.mean))} --std {','.join(map(str, config.std))}"
    return _TORCHVISION_INPUT if is_file else ""


def _describe_estimate(config: InitConfig, found: Photographs, num_training: int, epochs: int) -> str:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "") or Path("/dev/nvidia0").exists():
        return "How long it takes was not estimated: this machine has a GPU."
    num_held_out = found.num_images - num_training
    counts = {"network": num_training * _SEG_EPOCHS, "refine": num_training, "masks": num_training,
              "segment": num_held_out}
    if config.method == "clip-es":
        counts["clip"] = num_training
    else:
        counts |= {"classifier": num_training * epochs, "maps": num_training}
    if config.method == "affinity":
        counts |= {"affinity": num_training * _AFFINITY_EPOCHS, "walk": num_training}
    num_cores = count_cores()
    minutes = estimate_minutes(counts, found.num_pixels, measure_calibration(), num_cores)
    minutes["starting commands"] = _SECONDS_PER_COMMAND * len(counts) / 60
    total = round(sum(minutes.values()))
    slowest = sorted(minutes, key=lambda step: -minutes[step])[:2]
    return (f"It takes about {f'{total} minutes' if total > 1 else 'a minute'} on this machine ({num_cores} cores), "
            f"give or take half of that, most of it for: {', '.join(slowest)}.")
