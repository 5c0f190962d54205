"""Read a YOLO data set's configuration: its class names, and where the images of each split are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stages.data.folders import has_image_suffix
from stages.data.tables import read_nonblank_lines, read_text_file
from stages.errors import BadData, MissingInput, UsageError

_SPLITS = ("train", "val", "valid", "test", "minival")
_NAMES_REMEDY = "Write names: [cat, dog] or names: {0: cat, 1: dog}"
_NAME_FILES = ("classes.txt", "obj.names")


@dataclass(frozen=True)
class YoloConfig:
    """The class names in the order of their numbers, and the folders or lists of images by split ("": no splits).

    `where` is the file with the names; `has_keypoints` says that a line goes on after the box.
    """

    where: Path
    names: list[Any]
    sources: dict[str, list[Path]]
    has_keypoints: bool = False


def read_yolo_config(path: Path) -> YoloConfig:
    """Read data.yaml, or a folder that has one, or the folders images and labels with classes.txt.

    Raises MissingInput or BadData if there is none of them.
    """
    if path.is_file():
        return _read_yaml(path)
    if not path.is_dir():
        raise MissingInput("there is no such file or folder", "Pass data.yaml, or the folder of the data set",
                           where=str(path))
    files = [file for file in (path / "data.yaml", path / "data.yml") if file.is_file()] or \
        [file for file in sorted(path.glob("*.y*ml")) if "names" in read_text_file(file)]
    if len(files) > 1:
        raise BadData(f"the folder has {len(files)} files that may describe the data set ({files[0].name}, "
                      f"{files[1].name})", f"Pass one of them: `wsss index yolo {files[0]}`", where=str(path))
    if files:
        return _read_yaml(files[0])
    return _read_folder(path)


def select_split(config: YoloConfig, split: str) -> list[Path]:
    """Return the folders or lists of images of a split; it may be left out if there is one. Raises UsageError."""
    names = list(config.sources)
    if split and split not in names:
        raise UsageError(f"there is no split {split!r}", f"Use one of: {', '.join(names)}" if names != [""] else
                         "Leave out --split", where=str(config.where))
    if not split and len(names) > 1:
        raise UsageError(f"the data set has the splits {', '.join(names)}", f"Choose one, such as --split {names[0]}",
                         where=str(config.where))
    return config.sources[split or names[0]]


def _read_yaml(path: Path) -> YoloConfig:
    text = read_text_file(path)
    try:
        # A few nested aliases would expand to gigabytes in a message.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise BadData("the file uses YAML aliases (*)", "Write the values out", where=str(path))
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise BadData(f"the file is not valid YAML ({error})", _NAMES_REMEDY, where=str(path)) from None
    if not isinstance(content, dict) or "names" not in content:
        raise BadData("the file has no class names", _NAMES_REMEDY, where=str(path))
    base = _find_base(content.get("path"), path)
    sources = {split: _resolve_sources(content[split], base, split, path) for split in _SPLITS if content.get(split)}
    if not sources:
        sources = _find_sources(path.parent)
    return YoloConfig(path, _read_names(content, path), sources, bool(content.get("kpt_shape")))


def _read_names(content: dict[str, Any], path: Path) -> list[Any]:
    """Return the names by number. Raises BadData unless the numbers are 0, 1, 2, ... and `nc` agrees."""
    names, num_classes = content["names"], content.get("nc")
    if isinstance(names, dict):
        if list(names) != list(range(len(names))) and sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise BadData(f"the class numbers are {', '.join(map(str, list(names)[:5]))}, not 0 to {len(names) - 1}",
                          _NAMES_REMEDY, where=str(path))
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise BadData(f"the class names are {str(names)[:40]!r}, which is neither a list nor a map", _NAMES_REMEDY,
                      where=str(path))
    if num_classes is not None and num_classes != len(names):
        raise BadData(f"nc is {num_classes}, but there are {len(names)} names", "Correct nc or names", where=str(path))
    return names


def _find_base(value: Any, path: Path) -> Path:
    """Return the folder that the splits are relative to: `path` of the file if it exists here, else the file's own."""
    base = path.parent / value if isinstance(value, str) and "\0" not in value else path.parent
    return base if base.is_dir() else path.parent


def _resolve_sources(value: Any, base: Path, split: str, path: Path) -> list[Path]:
    sources = []
    for source in value if isinstance(value, list) else [value]:
        if not isinstance(source, str) or "\0" in source:
            raise BadData(f"{split} is {source!r}, which is not a path", "Write the folder of the images",
                          where=str(path))
        source = source.replace("\\", "/")
        # Roboflow writes ../train/images for a folder next to the file.
        candidates = [base / source, base / source.removeprefix("../"), path.parent / source]
        sources.append(next((candidate for candidate in candidates if candidate.exists()), candidates[0]))
    return sources


def _read_folder(folder: Path) -> YoloConfig:
    names_file = next((folder / name for name in _NAME_FILES if (folder / name).is_file()), None)
    if names_file is None:
        raise MissingInput("there is no data.yaml and no classes.txt with the names of the classes",
                           f"Write one name per line, in the order of the class numbers, to {folder / 'classes.txt'}",
                           where=str(folder))
    return YoloConfig(names_file, [name for _, name in read_nonblank_lines(names_file)], _find_sources(folder))


def _find_sources(folder: Path) -> dict[str, list[Path]]:
    """Return the folders of images: images, its sub-folders train, val and test, or train/images and so on."""
    images = folder / "images" if (folder / "images").is_dir() else folder
    splits = {split: [images / split] for split in _SPLITS if (images / split).is_dir()}
    if splits and images == folder:
        splits = {split: [images / split / "images"] for split in splits if (images / split / "images").is_dir()}
    return splits or {"": [images]}


def list_image_files(source: Path, where: Path) -> list[Path]:
    """Return the image files of a folder and its sub-folders, or of a list of paths, sorted.

    Raises MissingInput if the folder or list is missing.
    """
    if source.is_dir():
        return sorted(path for path in source.rglob("*") if has_image_suffix(path.name))
    if source.suffix != ".txt":
        raise MissingInput("there is no such folder of images", f"Correct its path in {where.name}", where=str(source))
    return [source.parent / line.replace("\\", "/") for _, line in read_nonblank_lines(source)]
