"""The library behind `wsss`: stages that read and write shards, importable without a terminal."""

from __future__ import annotations

from dataclasses import dataclass

VERSION = "0.1.0"


@dataclass(frozen=True)
class Stage:
    """A row of the table of stages: what it reads and writes, and whether it maps shards or reduces them."""

    name: str
    reads: str
    writes: str
    kind: str
    line: str

    @property
    def folder(self) -> str:
        """The name of the stage's folder under stages/."""
        return self.name.replace("-", "_")


STAGES = (
    Stage("index", "images, lists, tables", "index", "reduce", "find images, tags and masks of a data set"),
    Stage("cooc", "index", "cooc", "reduce", "which classes appear together"),
    Stage("features", "index, a net", "features", "map", "one vector an image"),
    Stage("cluster", "features", "clusters", "reduce", "sub-categories of every class"),
    Stage("train-cls", "index", "a net", "reduce", "train a classifier from image tags"),
    Stage("prompts", "index, a CLIP", "a table", "reduce", "which words to show a CLIP, from image tags"),
    Stage("cams", "index, a net", "cams", "map", "class activation maps"),
    Stage("train-aff", "index, cams", "a net", "reduce", "train affinities between neighbouring cells"),
    Stage("refine", "cams, images", "cams", "map", "fit maps to the borders in the image"),
    Stage("pseudo", "cams", "masks", "map", "maps to pseudo masks"),
    Stage("train-seg", "index, masks", "a net", "reduce", "train a segmentation network on masks"),
    Stage("train-text", "index, a CLIP", "a net", "reduce", "train a segmentation network on captions"),
    Stage("segment", "index, a net", "masks", "map", "segment images with a trained network, or with CLIP and words"),
    Stage("eval", "cams or masks, truth", "a table", "reduce", "score maps and masks against the truth"),
    Stage("info", "any shard or net", "a table", "reduce", "what a file holds and how it was made"),
    Stage("check", "any shard", "a table", "reduce", "find damaged bytes, keep what is sound"),
    Stage("merge", "index, features, cams or masks", "the same in fewer shards", "reduce", "join the parts of a run"),
    Stage("show", "any shard with images", "a picture", "reduce", "look at images, maps and masks"),
    Stage("export", "masks", "PNG files", "reduce", "masks for other tools"),
    Stage("setup", "an archive", "data files", "reduce", "put data where they are found, without a network"),
)
