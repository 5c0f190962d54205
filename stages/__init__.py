"""The library behind `wsss`: stages that read and write shards, importable without a terminal."""

from __future__ import annotations

from dataclasses import dataclass

VERSION = "0.1.0"


@dataclass(frozen=True)
class Stage:
    """A row of the table of stages: its inputs and outputs, and whether it maps shards or reduces them."""

    name: str
    reads: str
    writes: str
    kind: str
    description: str

    @property
    def folder(self) -> str:
        """The name of the stage's folder under stages/."""
        return "import_" if self.name == "import" else self.name.replace("-", "_")


STAGES = (
    Stage("init", "images, a table of tags", "a Makefile", "reduce",
          "write a Makefile that makes masks, a network and a report from tags"),
    Stage("index", "images, lists, tables", "index", "reduce",
          "find the images, tags, captions and masks of a data set"),
    Stage("cooc", "index", "cooc", "reduce", "count which classes appear together"),
    Stage("features", "index, a net", "features", "map", "one feature vector per image"),
    Stage("cluster", "features", "clusters", "reduce", "divide every class into sub-categories"),
    Stage("train-cls", "index", "a net", "reduce", "train a classifier from image tags"),
    Stage("prompts", "index, a CLIP model", "a table", "reduce",
          "rank prompt templates for a CLIP model, from image tags"),
    Stage("regions", "index", "regions", "map", "divide images into regions without classes, such as superpixels"),
    Stage("cams", "index, a net", "cams", "map", "compute class activation maps"),
    Stage("train-aff", "index, cams", "a net", "reduce",
          "train a network that predicts which neighbouring cells belong together"),
    Stage("refine", "cams, images", "cams", "map", "refine maps at the borders of objects"),
    Stage("pseudo", "cams", "masks", "map", "turn maps into pseudo masks"),
    Stage("bank", "masks, images, a net", "bank", "map", "one feature vector per class of each mask"),
    Stage("train-seg", "index, masks", "a net", "reduce", "train a segmentation network on masks"),
    Stage("train-text", "index, a CLIP model", "a net", "reduce", "train a segmentation network on captions"),
    Stage("segment", "index, a net", "masks", "map", "segment images with a trained network, or with CLIP and words"),
    Stage("import", "results of other tools, index", "masks, maps or regions", "map",
          "turn masks, maps and regions of other tools into runs"),
    Stage("eval", "cams or masks, truth", "a table", "reduce", "score maps or masks against ground truth"),
    Stage("explain", "index, nets, masks", "sentences", "reduce", "say what the numbers mean, and what to try next"),
    Stage("info", "any shard or net", "a table", "reduce", "show what a file holds and how it was made"),
    Stage("log", "any run or net", "a table and curves", "reduce", "show how far a run or training is, and its curves"),
    Stage("check", "any shard", "a table", "reduce", "find damaged files and repair them"),
    Stage("merge", "index, features, cams, masks or regions", "the same in fewer shards", "reduce",
          "join the shards of a run"),
    Stage("show", "shards with images, nets or logs", "pictures", "reduce", "draw images, maps, masks and curves"),
    Stage("report", "index, cams or masks, nets", "a web page", "reduce",
          "compare runs over the same images in one web page"),
    Stage("export", "masks or an index", "files of other tools", "reduce", "write masks in the formats of other tools"),
    Stage("setup", "an archive", "data files", "reduce", "install data files from an archive, offline"),
)
