"""wsss in Python: weakly supervised segmentation, from image tags or captions to masks and trained networks.

    import wsss

    wsss.index.table("tags.csv", images="photos", output="photos.h5")
    wsss.train_cls.cam("photos.h5", weights="IMAGENET1K_V1", output="cam.safetensors")
    cams = wsss.cams.cnn("photos.h5", net="cam.safetensors", output="cams")
    masks = wsss.pseudo(cams, output="masks")

    for item in wsss.open_run("masks"):
        print(item.id, item.mask.shape, item.class_names)

    net = wsss.load_net("cam.safetensors")
    cow = net.cams("photo.jpg", classes=["cow"]).resize_to_image()

Every command is a function with the same settings, defaults and results: `stages()` lists them. Errors are subclasses
of `wsss.Error`. Importing this module is fast: torch and the rest are imported when a function needs them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from stages import VERSION
from stages.errors import (
    BadData,
    CannotCreate,
    IoFailed,
    MissingInput,
    OutOfMemory,
    Stopped,
    Unavailable,
    UsageError,
)
from stages.errors import WsssError as Error
from stages.flow.execution import Report, SilentReport
from wsss_api.commands import COMMANDS
from wsss_api.errors import UnknownId, UnknownSetting
from wsss_api.functions import CommandGroup, StageFunction, build_function
from wsss_api.results import FailedImages, Result

if TYPE_CHECKING:
    import numpy as np

    from wsss_api.items import CamItem, ClusterItem, FeatureItem, IndexItem, MaskItem, RegionItem
    from wsss_api.nets import Net
    from wsss_api.runs import Run
    from wsss_api.torch_data import TorchDataset

    Paths = str | os.PathLike[str] | Result | Run[Any] | Iterable[str | os.PathLike[str] | Result]

__version__ = VERSION
PathLike = str | os.PathLike[str]
ReportOption = Callable[[str], object] | Report | None

# The commands of stages with several methods, such as wsss.cams.cnn.
index = CommandGroup("index")
cluster = CommandGroup("cluster")
train_cls = CommandGroup("train-cls")
regions = CommandGroup("regions")
cams = CommandGroup("cams")
train_aff = CommandGroup("train-aff")
refine = CommandGroup("refine")
train_text = CommandGroup("train-text")
segment = CommandGroup("segment")
import_ = CommandGroup("import")  # `import` is a keyword of Python
export = CommandGroup("export")
setup = CommandGroup("setup")

# The other commands, and the classes that functions return, are made when they are first used.
cooc: StageFunction
features: StageFunction
prompts: StageFunction
pseudo: StageFunction
bank: StageFunction
train_seg: StageFunction
eval: StageFunction
info: StageFunction
log: StageFunction
init: StageFunction
explain: StageFunction
check: StageFunction
merge: StageFunction
show: StageFunction
report: StageFunction
_FUNCTIONS = {command.function_name: command for command in COMMANDS.values() if not command.method}
_CLASSES = {"CamItem": "items", "ClusterItem": "items", "FeatureItem": "items", "IndexItem": "items",
            "MaskItem": "items", "Net": "nets", "RegionItem": "items", "Run": "runs", "TorchDataset": "torch_data"}

__all__ = [
    "BadData", "CamItem", "CannotCreate", "ClusterItem", "Error", "FailedImages", "FeatureItem", "IndexItem",
    "IoFailed", "MaskItem", "MissingInput", "Net", "OutOfMemory", "RegionItem", "Report", "Result", "Run",
    "SilentReport", "Stopped", "TorchDataset", "Unavailable", "UnknownId", "UnknownSetting", "UsageError",
    "__version__", "bank", "cams", "check", "clip_es", "cluster", "cooc", "eval", "explain", "export", "features",
    "import_", "index", "info", "init", "load_net", "log", "merge", "open_run", "prompts", "pseudo", "refine",
    "regions", "report", "run", "segment", "setup", "show", "stages", "torch_dataset", "train_aff", "train_cls",
    "train_seg", "train_text", "write_masks",
]

if not TYPE_CHECKING:
    def __getattr__(name: str) -> Any:
        """Make a function or import a class when it is first used."""
        if name in _FUNCTIONS:
            value = build_function(_FUNCTIONS[name])
        elif name in _CLASSES:
            value = getattr(importlib.import_module(f"wsss_api.{_CLASSES[name]}"), name)
        else:
            raise AttributeError(f"module 'wsss' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)


@overload
def open_run(paths: Paths, kind: Literal["index"], *, root: PathLike | None = None, index: PathLike | None = None,
             require_all: bool = True) -> Run[IndexItem]: ...


@overload
def open_run(paths: Paths, kind: Literal["cams"], *, root: PathLike | None = None, index: PathLike | None = None,
             require_all: bool = True) -> Run[CamItem]: ...


@overload
def open_run(paths: Paths, kind: Literal["masks"], *, root: PathLike | None = None, index: PathLike | None = None,
             require_all: bool = True) -> Run[MaskItem]: ...


@overload
def open_run(paths: Paths, kind: Literal["features"], *, root: PathLike | None = None, index: PathLike | None = None,
             require_all: bool = True) -> Run[FeatureItem]: ...


@overload
def open_run(paths: Paths, kind: Literal["regions"], *, root: PathLike | None = None, index: PathLike | None = None,
             require_all: bool = True) -> Run[RegionItem]: ...


@overload
def open_run(paths: Paths, kind: str | None = None, *, root: PathLike | None = None, index: PathLike | None = None,
             require_all: bool = True) -> Run[Any]: ...


def open_run(paths: Paths, kind: str | None = None, *, root: PathLike | None = None, index: PathLike | None = None,
             require_all: bool = True) -> Run[Any]:
    """Open a run of any kind: a shard, a folder of shards, a list of these, or the result of a command.

    A run is a sequence and a mapping of items, which are numpy arrays with ids and class names: `run[0]`, `run[-1]`,
    `run[2:5]`, `run["IMG_0012"]`, `for item in run`, `len(run)`. It has `kind`, `classes`, `ids`, `errors` (failed
    images and why), `provenance`, `arrays`, `read_image(id)`, `read_truth(id)` and `to_pandas()`, and is a context
    manager. With `kind` ("index", "cams", "masks", ...) a run of another kind is an error, and type checkers know the
    items. `root` and `index` are the folder of the images and the index, if they have moved. `require_all=False` opens
    the finished parts of an unfinished run. Raises MissingInput, BadData.
    """
    from wsss_api.runs import open_run
    return open_run(paths, kind, root=root, index=index, require_all=require_all)


def load_net(path: PathLike, *, device: str = "auto", report: ReportOption = None) -> Net:
    """Load a network that wsss has trained.

    The result has `classes`, `task`, `cams(image, classes=["cow"])` and `segment(image)`, which compute what
    `wsss cams cnn PHOTO` (or mctformer, gradcam) and `wsss segment net PHOTO` compute, with the settings of these
    commands as keyword arguments. An image is a path, an image of PIL, a uint8 array (H, W, 3) or a uint8 tensor
    (3, H, W). Raises MissingInput, BadData, UsageError, Unavailable.
    """
    from wsss_api.nets import Net
    return Net(path, device, report)


def clip_es(image: PathLike | np.ndarray | Any, words: str | Iterable[str] | None = None, *,
            clip: PathLike | None = None, weights: PathLike | None = None, report: ReportOption = None,
            **settings: Any) -> CamItem:
    """Return the CAMs of an image by CLIP, as `wsss cams clip-es PHOTO --words ...` computes them.

    `words` are the classes, such as ["cow", "wet grass = grass, lawn"], or text as for --words; without them,
    `names="voc"` chooses a preset. `clip` and `weights` name the CLIP model. `settings` are those of the command. The
    model of the last call stays loaded. Raises UsageError, MissingInput, BadData, Unavailable.
    """
    from wsss_api.clip_es import compute_clip_es
    return compute_clip_es(image, words, clip=clip, weights=weights, report=report, **settings)


def write_masks(path: PathLike, masks: Mapping[str, Any] | Iterable[Any], *, index: Paths,
                classes: Iterable[str] | Mapping[int, str | None] | None = None, note: str = "", shard_size: int = 256,
                force: bool = False, report: ReportOption = None) -> Result:
    """Write masks that were made in Python as a run, which `eval`, `show`, `export` and `train-seg` read.

    `masks` are arrays or tensors (H, W) by image id of `index`: a dictionary, pairs (id, mask), or items of a run.
    Their values are class ids of the index, and 255 (65535 with more than 254 classes) for unknown pixels; other values
    are explained by `classes`: names by value, {0: "background", 7: "cat", -1: None}, with None for unknown pixels, or
    a list that starts with the background. Images of the index without a mask are not part of the run. `note` is stored
    in the provenance. Raises UsageError, BadData (an unknown id or value, another size), CannotCreate.
    """
    from wsss_api.mask_writer import write_masks
    return write_masks(path, masks, index=index, classes=classes, note=note, shard_size=shard_size, force=force,
                       report=report)


def torch_dataset(index: Paths, masks: Paths | None = None, *, truth: bool = False, captions: bool = False,
                  transform: Callable[[dict[str, Any]], Any] | None = None, max_side: int = 1024,
                  root: PathLike | None = None) -> TorchDataset:
    """Return the images of an index as a `torch.utils.data.Dataset` for other training code.

    A sample is a dictionary: "id"; "image", uint8 (3, H, W); "labels", float32 (C,), 1 for the classes of the tags and
    NaN if they are unknown; with `masks` (a run) or `truth=True` (the masks of the index) also "mask", int64 (H, W)
    with `ignore_index` for unknown pixels; with `captions=True` also "captions", a list of texts. Only images with a
    mask are in it then. `transform` is called with the sample; image and mask are then tensors of torchvision that
    `torchvision.transforms.v2` transforms alike. Images larger than `max_side` are reduced (0: never). Raises
    MissingInput, BadData, UsageError.
    """
    from wsss_api.torch_data import TorchDataset
    return TorchDataset(index, masks, truth=truth, captions=captions, transform=transform, max_side=max_side, root=root)


def stages() -> dict[str, str]:
    """Return all commands and what they do.

    `cams clip-es` is the function `wsss.cams.clip_es`, and `import masks` is `wsss.import_.masks`.
    """
    return {command.name: command.summary for command in COMMANDS.values()}


def run(command: str, *inputs: Any, report: ReportOption = None, **settings: Any) -> Result:
    """Run a command by its name: `wsss.run("cams cnn", "photos.h5", net="cam.safetensors", output="cams")`.

    `inputs` are its arguments: paths, or results of other commands. Keyword arguments are the options of the command,
    with underscores: `max_side=512` is --max-side 512. Lists are lists, `scales=(1, 0.5)`, and flags are True or
    False. Work is done in this process unless `jobs` says otherwise; the results do not depend on it.

    Messages are in the result; `report` is a function that also receives them, such as `print`, or a `Report` that also
    receives the progress. Without it, warnings become warnings of Python. Raises UnknownSetting for a setting that the
    command does not have, FailedImages if images failed (more than `allow_errors`), and what the stage raises.
    """
    from wsss_api.calls import run_command
    return run_command(command, inputs, report, settings)
