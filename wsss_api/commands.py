"""The table of all commands that can be called from Python: their settings, inputs and options.

A row is what `wsss_cli` says about the command in the same words; a test compares them. Only the standard library.
"""

from __future__ import annotations

import importlib
import keyword
from dataclasses import dataclass

_OVERWRITE, _FAILED = ("force", "dry_run"), ("strict", "retry", "allow_errors")
_EXECUTION = (*_OVERWRITE, "task", "jobs", "profile", "log", *_FAILED)
_MAP_IMAGES = ("output", "root", *_EXECUTION, "reuse")
_MAP_RUN = ("output", "index", "root", *_EXECUTION, "reuse")
_TRAIN = ("output", "root", *_OVERWRITE, "workers", "tensorboard", "log")
_INDEX = ("output", "summary_json", *_OVERWRITE, "task", "jobs", *_FAILED, "log")
# Without retry: corrected files are another input, so that the images are imported anew with force.
_IMPORT = ("output", "root", *_OVERWRITE, "task", "jobs", "profile", "log", "strict",
           "allow_errors")
_TORCH_STAGES = ("bank", "features", "train-cls", "prompts", "cams", "train-aff", "refine", "train-seg", "train-text",
                 "segment")
_IMAGES = "INDEX|IMAGE..."


@dataclass(frozen=True)
class Command:
    """A command: `config` is the name of its settings class, `run` of the function in the stage's `stage.py`.

    `inputs` names its positional arguments, `required` and `optional` are further inputs, `options` are arguments that
    do not change the result. With `has_variants` the setting `base` chooses one of two settings classes.
    """

    name: str
    config: str
    run: str
    summary: str
    inputs: str
    options: tuple[str, ...]
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    is_adapted: bool = False
    takes_method: bool = False
    has_variants: bool = False

    @property
    def stage(self) -> str:
        """The first word of the name."""
        return self.name.split()[0]

    @property
    def method(self) -> str:
        """The second word of the name, or ""."""
        return self.name.partition(" ")[2]

    @property
    def folder(self) -> str:
        """The package of the stage."""
        return f"stages.{name_in_python(self.stage)}"

    @property
    def function_name(self) -> str:
        """The name in Python: `cams.clip_es` for `cams clip-es`."""
        return ".".join(map(name_in_python, self.name.split()))

    @property
    def needs_torch(self) -> bool:
        """True if the command computes with torch in this process."""
        return self.stage in _TORCH_STAGES


def name_in_python(word: str) -> str:
    """Return a word of a command as an identifier: `clip_es` for `clip-es`, `import_` for `import`."""
    name = word.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _index(layout: str, config: str, summary: str, inputs: str, *optional: str) -> Command:
    return Command(f"index {layout}", config, "index_images", summary, inputs, _INDEX, optional=optional,
                   is_adapted=True)


def _import(kind: str, config: str, summary: str, *required: str, inputs: str = "RESULTS") -> Command:
    return Command(f"import {kind}", config, f"run_{kind}", summary, inputs, _IMPORT, ("index", *required))


def _train_cls(method: str, config: str, summary: str, *required: str, inputs: str = "INDEX...") -> Command:
    return Command(f"train-cls {method}", config, "run", summary, inputs, (*_TRAIN, "keep_going"), required,
                   ("weights",), takes_method=True)


def _segment_words(method: str, config: str, rule: str, *required: str) -> Command:
    return Command(f"segment {method}", config, "run_text", f"Segment any words with a frozen CLIP model: {rule}.",
                   _IMAGES, _MAP_IMAGES, required, ("clip", "weights", "words", "scores"), takes_method=True)


_CLASSES = ("class_names", "classes_of")
_BENCHMARKS = (
    ("context", "ContextConfig", "PASCAL Context: JPEGImages, SegmentationClassContext and its lists"),
    ("coco-stuff", "BenchmarkConfig", "COCO-Stuff: images/val2017 and annotations/val2017 (or stuffthingmaps)"),
    ("coco-object", "BenchmarkConfig", "COCO-Object: the 80 object classes of COCO-Stuff; everything else is "
     "background"),
    ("cityscapes", "BenchmarkConfig", "Cityscapes: leftImg8bit and gtFine"),
    ("ade20k", "BenchmarkConfig", "ADE20K with the 150 classes of ADEChallengeData2016"))

COMMANDS: dict[str, Command] = {command.name: command for command in (
    _index("voc", "VocConfig", "Index PASCAL VOC, or a data set with the same folders.", "ROOT", "list", "masks", "sbd",
           "labels", *_CLASSES),
    _index("table", "TableConfig", "Index a folder of images with a table of tags or captions (CSV, TSV, JSON, JSON "
           "lines, XLSX or Parquet).", "TABLE", "images", "masks", *_CLASSES),
    _index("coco", "ShapesConfig", "Index COCO, or another data set with a COCO annotation file (instances or "
           "captions).", "JSON...", "images", "captions", "masks"),
    _index("folder", "FolderConfig", "Index a folder that has one folder of images per class, or untagged images for a "
           "trained network.", "DIR", *_CLASSES),
    *(_index(layout, config, f"Index {folders}.", "ROOT") for layout, config, folders in _BENCHMARKS),
    _index("webdataset", "FolderConfig", "Index tar archives of images and captions (KEY.jpg with KEY.txt or "
           "KEY.json), without unpacking them.", "TAR...", "classes_of"),
    _index("yolo", "YoloConfig", "Index a YOLO data set: data.yaml, or the folders images and labels with "
           "classes.txt.", "YAML|DIR"),
    _index("cvat", "ShapesConfig", 'Index CVAT\'s exports "CVAT for images 1.1" (XML) and "Segmentation mask 1.1".',
           "XML|DIR", "images"),
    _index("labelme", "ShapesConfig", "Index a folder of LabelMe's JSON files.", "FOLDER", "images", "class_names"),
    _index("labelstudio", "ShapesConfig", "Index the JSON export of Label Studio.", "EXPORT", "images", "class_names"),
    _index("fiftyone", "FiftyoneConfig", "Index a data set that FiftyOne exported in its own format "
           "(FiftyOneDataset).", "FOLDER", "images", "class_names"),
    Command("index split", "SplitConfig", "run_split", "Hold out part of the images for scoring, or select those with "
            "one label or with several.", "INDEX...", ("output", *_OVERWRITE, "log"), optional=("held_out",)),
    Command("init", "InitConfig", "run", "Write a Makefile that makes masks, a network and a report from photographs "
            "and tags.", "PROJECT", _OVERWRITE, ("images",), ("tags", "masks", "weights")),
    Command("cooc", "CoocConfig", "count_classes", "Count which classes appear together in the same image.",
            "INDEX...", ("output", *_OVERWRITE, "task", "jobs", "log", "allow_errors"), optional=("plot",),
            is_adapted=True),
    Command("features", "FeaturesConfig", "run", "Compute one pooled feature vector per image.", _IMAGES, _MAP_IMAGES,
            ("net",), ("weights",)),
    Command("cluster finch", "FinchConfig", "run", "Cluster by first neighbours (FINCH); the number of clusters need "
            "not be known.", "FEATURES...", ("output", "index", "root", *_OVERWRITE, "log", "allow_errors"),
            optional=("sheet",), takes_method=True),
    Command("cluster kmeans", "KmeansConfig", "run", "Cluster with k-means.", "FEATURES...",
            ("output", "index", "root", *_OVERWRITE, "log", "allow_errors"), optional=("sheet",), takes_method=True),
    _train_cls("cam", "CamConfig", "Train a multi-label classifier: global average pooling and a linear layer without "
               "bias."),
    _train_cls("mixup", "MixupConfig", "Train the classifier on convex combinations of images (Mixup)."),
    _train_cls("fmix", "FmixConfig", "Train the classifier on pairs of images joined by random masks (FMix)."),
    _train_cls("manifold-mixup", "ManifoldConfig", "Train the classifier on pairs of images mixed at a random layer "
               "(Manifold Mixup)."),
    _train_cls("subcategory", "SubcategoryConfig", "Train the classifier with a second head that predicts "
               "sub-categories (SC-CAM).", "clusters"),
    _train_cls("mctformer", "MctformerConfig", "Train MCTformer, a vision transformer with one class token per class."),
    Command("train-cls csd", "cam=CsdCamConfig mctformer=CsdMctformerConfig", "train_csd",
            "Train with Cross-domain Semantic Decoupling (CSD).", "INDEX...", (*_TRAIN, "keep_going", "preview"),
            ("masks",), ("cooc", "weights"), is_adapted=True, has_variants=True),
    Command("prompts", "PromptsConfig", "rank_prompts", "Rank prompt templates for CLIP by their sharpness, using "
            "image tags alone.", "INDEX...", ("root",), optional=("clip", "weights"), is_adapted=True),
    Command("regions superpixels", "SuperpixelsConfig", "run_superpixels", "Divide images into superpixels of similar "
            "colour (SLIC), without a network.", _IMAGES, _MAP_IMAGES),
    Command("cams cnn", "CnnConfig", "run_cnn", "CAMs of a classifier trained with train-cls, summed over image scales "
            "and mirrored images.", _IMAGES, _MAP_IMAGES, ("net",)),
    Command("cams clip-es", "ClipEsConfig", "run_clip_es", "CAMs of a frozen CLIP model, without training: "
            "softmax-GradCAM refined by attention (CLIP-ES).", _IMAGES, _MAP_IMAGES,
            optional=("clip", "weights", "words", "save_raw")),
    Command("cams excel", "ExcelConfig", "run_excel", "CAMs of a frozen CLIP model, without training or gradients: "
            "patches are compared with words (ExCEL).", _IMAGES, _MAP_IMAGES,
            optional=("clip", "weights", "words", "save_raw")),
    Command("cams mctformer", "MctformerConfig", "run_mctformer", "CAMs of an MCTformer: class-token attention, fused "
            "with patch CAMs and refined by patch affinity.", _IMAGES, _MAP_IMAGES, ("net",)),
    Command("cams gradcam", "GradcamConfig", "run_gradcam", "Grad-CAM of any classifier, at any layer.", _IMAGES,
            _MAP_IMAGES, ("net",), ("weights", "names")),
    *(Command(f"train-aff {method}", config, f"run_{method}", summary, "INDEX...", _TRAIN, ("cams",), ("weights",))
      for method, config, summary in (
        ("psa", "PsaConfig", "Train AffinityNet (PSA) on confident areas of CAMs."),
        ("irn", "IrnConfig", "Train IRNet on confident areas of CAMs: class boundaries, and displacements to object "
         "centres."))),
    *(Command(f"refine {method}", config, f"run_{method}", summary, "CAMS...", _MAP_RUN, required)
      for method, config, summary, required in (
        ("crf", "CrfConfig", "Dense CRF over the background and the classes of each image.", ()),
        ("psa", "PsaConfig", "Random walk over the affinities predicted by AffinityNet (PSA).", ("net",)),
        ("irn", "IrnConfig", "Random walk that stops at the boundaries predicted by IRNet.", ("net",)),
        ("pamr", "PamrConfig", "Pixel-adaptive mask refinement: averages over neighbours of similar colour, without a "
         "network.", ()),
        ("par", "ParConfig", "Pixel-adaptive refinement of AFA, WeCLIP and ExCEL: averages over neighbours that are "
         "similar or near.", ()))),
    Command("refine regions", "RegionsConfig", "run_regions", "Make maps or masks agree with regions, such as "
            "superpixels or those of SAM.", "CAMS|MASKS...", _MAP_RUN, ("regions",)),
    Command("pseudo", "PseudoConfig", "run", "Turn CAMs into pseudo masks.", "CAMS...", _MAP_RUN),
    Command("bank", "BankConfig", "run", "Compute a feature vector of each class in each mask, for segment retrieve.",
            "MASKS...", _MAP_RUN, ("net",), ("weights",)),
    Command("train-seg", "SegConfig", "run", "Train a segmentation network on masks.", "INDEX...", _TRAIN, ("masks",),
            ("weights",)),
    Command("train-text tcl", "TclConfig", "run", "Train TCL: masks that match whole captions.", "INDEX...", _TRAIN,
            optional=("clip", "weights"), takes_method=True),
    Command("train-text code", "CodeConfig", "run", "Train CoDe: image regions and word segments that match the nouns "
            "of captions.", "INDEX...", _TRAIN, optional=("clip", "weights", "nouns_file"), takes_method=True),
    Command("segment net", "NetConfig", "run_net", "Segment images with a network trained with train-seg.", _IMAGES,
            _MAP_IMAGES, ("net",), ("scores",)),
    *(Command(f"segment {method}", "GroundedConfig", "run_grounded", summary, _IMAGES, _MAP_IMAGES, ("net",),
              ("words", "scores"), takes_method=True)
      for method, summary in (
        ("tcl", "Segment any words with a network that learnt from whole captions (TCL)."),
        ("code", "Segment any words with a network that learnt from the nouns of captions (CoDe)."))),
    _segment_words("naclip", "NaclipConfig", "patches attend to nearby patches with similar keys (NACLIP)"),
    _segment_words("sclip", "SclipConfig", "patches attend to patches with similar queries and similar keys (SCLIP)"),
    _segment_words("clearclip", "ClearclipConfig", "patches attend to similar queries, without the residual path "
                   "(ClearCLIP)"),
    _segment_words("maskclip", "MaskclipConfig", "every patch attends to itself alone (MaskCLIP)"),
    _segment_words("proxyclip", "ProxyclipConfig", "patches attend to those that another network finds similar "
                   "(ProxyCLIP)", "proxy", "proxy_weights"),
    Command("segment corrclip", "CorrclipConfig", "run_text", "Segment any words with a frozen CLIP model: patches "
            "attend within regions (CorrCLIP).", _IMAGES, _MAP_IMAGES, ("proxy", "proxy_weights"),
            ("clip", "weights", "words", "regions"), takes_method=True),
    Command("segment retrieve", "RetrieveConfig", "run_retrieve", "Give each region the class of the most similar "
            "regions of training masks, without training (ModuSeg).", "INDEX...", _MAP_IMAGES,
            ("regions", "bank", "net"), ("weights",)),
    _import("masks", "MasksConfig", "Import a folder of masks, one file per image."),
    _import("cams", "CamsConfig", "Import a folder of CAMs, such as those of IRN, PSA or CLIP-ES."),
    _import("coco", "CocoConfig", "Import instances in COCO's results format as masks.", "annotations",
            inputs="RESULTS.json"),
    _import("regions", "RegionsConfig", "Import regions without classes, such as those of SAM or superpixels."),
    Command("eval", "EvalConfig", "evaluate_run", "Score CAMs or masks against ground-truth masks, and compare "
            "runs.", "RUN...|NAME=RUN,...", ("output", "index", "root", "dry_run", "task", "jobs"),
            optional=("truth", "per_image", "confusion"), is_adapted=True),
    Command("explain", "ExplainConfig", "explain", "Say what the numbers of an index, a training and masks mean, and "
            "what to try next.", "INDEX|NET|MASKS...", (), is_adapted=True),
    Command("info", "InfoConfig", "describe", "Show what a shard or network file holds and how it was made.", "FILE...",
            (), is_adapted=True),
    Command("log", "LogConfig", "describe_logs", "Show how far a run or a training is, how long it took, and the "
            "curves of trainings.", "RUN|NET...", ("output", "dry_run"), is_adapted=True),
    Command("check", "CheckConfig", "check_files", "Find damaged shards and network files, and repair them.",
            "FILE|FOLDER...", ("repair", "dry_run"), is_adapted=True),
    Command("merge", "MergeConfig", "run", "Join the shards of a run into one shard, or into fewer.", "RUN...",
            ("output", "index", *_OVERWRITE, "log", "allow_errors")),
    Command("show", "ShowConfig", "draw", "Draw photographs with their CAMs, masks and regions, or the curves of a "
            "training.",
            "RUN|NET|LOG...", ("output", "index", "root", "dry_run"), optional=("net",), is_adapted=True),
    Command("report", "ReportConfig", "write_report", "Write one web page that compares runs over the same images.",
            "RUN|NET|LOG...", ("output", "index", "root", *_OVERWRITE), optional=("truth", "net"), is_adapted=True),
    *(Command(f"export {name}", config, "run", summary, "MASKS|INDEX...", ("output", "index", "root", *_OVERWRITE))
      for name, config, summary in (
        ("png", "PngConfig", "Write one PNG of class ids per image."),
        ("voc", "VocConfig", "Write a PASCAL VOC tree, or the layout of the VOC test server."),
        ("coco", "CocoConfig", "Write a COCO file of run lengths or polygons."),
        ("yolo", "YoloConfig", "Write segmentation labels for Ultralytics YOLO."),
        ("cvat", "CvatConfig", "Write an annotation file of CVAT for images 1.1."),
        ("labelme", "LabelmeConfig", "Write one LabelMe file of polygons per image."),
        ("labelstudio", "LabelStudioConfig", "Write Label Studio tasks with the masks as predictions."),
        ("mmseg", "MmsegConfig", "Write the folders of MMSegmentation 1.x and a configuration."),
        ("hf", "HfConfig", "Write an imagefolder for Hugging Face datasets."))),
    Command("setup nltk", "NltkConfig", "install_nltk", "Install NLTK's part-of-speech tagger, for train-text code "
            "--nouns nltk.", "", ("output", *_OVERWRITE), ("archive",), is_adapted=True),
)}


def load_configs(command: Command) -> dict[str, type]:
    """Return the settings classes of a command by the value of `base`, or the only one under ""."""
    module = importlib.import_module(f"{command.folder}.config")
    if not command.has_variants:
        return {"": getattr(module, command.config)}
    pairs = (part.split("=") for part in command.config.split())
    return {base: getattr(module, name) for base, name in pairs}
