"""Measure the peak memory of every command on one photograph of 12 and of 50 megapixels.

Memory is the peak resident set of the whole process minus that of a process that imports torch; every command runs on a
CPU with one thread. Networks have random weights, which need as much memory as trained ones. Prints one line per
command and exits with 1 if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from results import Result, record_results

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"12 MP": (3024, 4032), "24 MP": (4000, 6000), "50 MP": (6120, 8160)}
BOUNDS = {"12 MP": 1500, "24 MP": 2500, "50 MP": 2500}  # MB
# A process inherits the peak memory of its parent; this intermediate parent needs hardly any.
MEASURE_CHILD = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
TRAIN = ("--epochs", "1", "--batch-size", "1", "--workers", "1", "--threads", "1", "--device", "cpu", "-q", "-f")
SERIAL = ("-j", "1", "--device", "cpu", "-q", "-f")
MOBILENET, RESNET50 = "mobilenet.safetensors", "resnet50.safetensors"
CRF = ("-j", "1", "-q", "-f")
CLIP = ("--clip", "ViT-B-16", "--weights", "random")
ONE_STEP = ("--steps", "1", "--warmup", "0")
# A ViT-B with its gradients and the state of its optimiser, whatever the photographs.
UNBOUNDED = ("mct.safetensors", "tcl.safetensors", "code.safetensors")
WORDS = ("--words", "cat; dog; tree; grass")
# Output name, command. Later commands read the outputs of earlier ones.
COMMANDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("index.h5", ("index", "table", "tags.csv", "--images", "photographs", "--masks", "masks", "--class-names",
                  "classes.txt", "-q", "-f")),
    (MOBILENET, ("train-cls", "cam", "index.h5", "--stride", "16", *TRAIN)),
    (RESNET50, ("train-cls", "cam", "index.h5", "--net", "torchvision:resnet50", "--stride", "16", *TRAIN)),
    ("mct.safetensors", ("train-cls", "mctformer", "index.h5", "--net", "timm:deit_base_patch16_224", "--crop-size",
                         "224", *TRAIN)),
    ("cams-mobilenet", ("cams", "cnn", "index.h5", "--net", MOBILENET, *SERIAL)),
    ("cams-resnet50", ("cams", "cnn", "index.h5", "--net", RESNET50, *SERIAL)),
    ("cams-gradcam", ("cams", "gradcam", "index.h5", "--net", RESNET50, *SERIAL)),
    ("cams-clip-es", ("cams", "clip-es", "index.h5", *CLIP, *SERIAL)),
    ("cams-excel", ("cams", "excel", "index.h5", *CLIP, *SERIAL)),
    ("cams-mctformer", ("cams", "mctformer", "index.h5", "--net", "mct.safetensors", *SERIAL)),
    ("features", ("features", "index.h5", "--net", RESNET50, *SERIAL)),
    ("psa.safetensors", ("train-aff", "psa", "index.h5", "--cams", "cams-mobilenet", "--weights", MOBILENET,
                         "--stride", "16", *TRAIN)),
    ("irn.safetensors", ("train-aff", "irn", "index.h5", "--cams", "cams-mobilenet", "--weights", MOBILENET,
                         "--stride", "16", *TRAIN)),
    ("crf", ("refine", "crf", "cams-mobilenet", *CRF)),
    ("psa", ("refine", "psa", "cams-mobilenet", "--net", "psa.safetensors", *SERIAL)),
    ("irn", ("refine", "irn", "cams-mobilenet", "--net", "irn.safetensors", *SERIAL)),
    ("pamr", ("refine", "pamr", "cams-mobilenet", *SERIAL)),
    ("par", ("refine", "par", "cams-mobilenet", *SERIAL)),
    ("masks-crf", ("pseudo", "crf", *CRF)),
    ("masks-cams", ("pseudo", "cams-mobilenet", "--background", "constant:0.3", *CRF)),
    ("seg.safetensors", ("train-seg", "index.h5", "--masks", "masks-cams", "--weights", MOBILENET, *TRAIN)),
    ("seg-truth.safetensors", ("train-seg", "index.h5", "--masks", "truth", "--weights", MOBILENET, *TRAIN)),
    ("segment-net", ("segment", "net", "index.h5", "--net", "seg.safetensors", "--scales", "0.5,1,1.5", *SERIAL)),
    ("segment-net-crf", ("segment", "net", "index.h5", "--net", "seg.safetensors", "--crf", "deeplab", *SERIAL)),
    ("segment-maskclip", ("segment", "maskclip", "index.h5", *CLIP, *WORDS, *SERIAL)),
    ("segment-sclip", ("segment", "sclip", "index.h5", *CLIP, *WORDS, *SERIAL)),
    ("segment-clearclip", ("segment", "clearclip", "index.h5", *CLIP, *WORDS, *SERIAL)),
    ("segment-naclip", ("segment", "naclip", "index.h5", "--pamr", *CLIP, *WORDS, *SERIAL)),
    ("segment-proxyclip", ("segment", "proxyclip", "index.h5", "--proxy", "timm:vit_base_patch8_224", "--proxy-weights",
                           "random", *CLIP, *WORDS, *SERIAL)),
    ("captions.h5", ("index", "table", "captions.csv", "--images", "photographs", "-q", "-f")),
    ("tcl.safetensors", ("train-text", "tcl", "captions.h5", *CLIP, *ONE_STEP, *TRAIN)),
    ("code.safetensors", ("train-text", "code", "captions.h5", "--nouns", "rules", *CLIP, *ONE_STEP, *TRAIN)),
    ("segment-by-tcl", ("segment", "tcl", "index.h5", "--net", "tcl.safetensors", *WORDS, *SERIAL)),
    ("segment-by-code", ("segment", "code", "index.h5", "--net", "code.safetensors", *WORDS, *SERIAL)),
    ("segment-tcl", ("segment", "maskclip", "index.h5", "--protocol", "tcl", "--pamr", *CLIP, *WORDS, *SERIAL)),
    ("eval-cams", ("eval", "cams-mobilenet", "-q")),
    ("eval-crf", ("eval", "crf", "-q")),
    ("eval-masks", ("eval", "masks-cams", "-q")),
    ("show.png", ("show", "cams-mobilenet", "masks-cams", "--truth", "-q")),
    ("export", ("export", "voc", "masks-cams", "-q", "-f")),
    ("export-png", ("export", "png", "masks-cams", "-q", "-f")),
)


def write_photographs(folder: Path, size: tuple[int, int]) -> None:
    """Write a photograph-like JPEG of `size` (H, W), its mask, and tables of its tags and the classes."""
    random = np.random.default_rng(0)
    blobs = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    image = Image.fromarray(blobs).resize(size[::-1], Image.Resampling.BICUBIC)
    noise = Image.effect_noise(size[::-1], 20).convert("RGB")
    mask = Image.fromarray(random.integers(0, 3, (6, 8), dtype=np.uint8)).resize(size[::-1], Image.Resampling.NEAREST)
    for name in ("photographs", "masks"):
        (folder / name).mkdir(parents=True)
    Image.blend(image, noise, 0.2).save(folder / "photographs" / "photo.jpg", quality=92)
    mask.save(folder / "masks" / "photo.png")
    (folder / "tags.csv").write_text("id,labels\nphoto,cat;dog\n")
    (folder / "captions.csv").write_text("id,caption\nphoto,A cat and a dog under a tree\n")
    (folder / "classes.txt").write_text("background\ncat\ndog\n")


def measure_peak_memory(folder: Path, command: Sequence[str]) -> float:
    """Run Python with a list of arguments in `folder` and return its peak resident set in MB. Raises SystemExit."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", MEASURE_CHILD, sys.executable, *command], cwd=folder, env=environment,
                          capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024) / 1e6


def measure_commands(folder: Path, only: str) -> Iterator[tuple[str, float]]:
    """Yield (command, peak in MB) of every command whose name contains `only`, after those whose outputs it reads."""
    selected = {output for output, words in COMMANDS if only in name_command(output, words)}
    required = set(selected)
    for output, words in reversed(COMMANDS):
        required |= set(words) if output in required else set()
    for output, words in COMMANDS:
        if output in required:
            option = () if words[0] == "eval" else ("-o", output)
            peak = measure_peak_memory(folder, ("-m", "wsss_cli", *words, *option))
            if output in selected:
                yield name_command(output, words), peak


def name_command(output: str, words: Sequence[str]) -> str:
    """Return the name of a command and of its output: `cams cnn (cams-resnet50)`."""
    return f"{' '.join(word for word in words[:2] if '.' not in word)} ({output})"


def main() -> int:
    """Print the table; return 1 if a command needs more than its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="12 MP,50 MP", help="sizes, of " + ", ".join(SIZES))
    parser.add_argument("--only", default="", help="print only commands that contain this text")
    arguments = parser.parse_args()
    table: dict[str, dict[str, float]] = {}
    sizes = arguments.sizes.split(",")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            write_photographs(Path(folder), SIZES[size])
            baseline = measure_peak_memory(Path(folder), ("-c", "import torch"))
            for name, peak in measure_commands(Path(folder), arguments.only):
                table.setdefault(name, {})[size] = peak - baseline
                print(f"{name:52} {size:>6} {peak - baseline:7.0f} MB", file=sys.stderr, flush=True)
    print(f"{'command (output)':52} " + " ".join(f"{size:>9}" for size in sizes) + "   MB beyond importing torch")
    for name, row in table.items():
        print(f"{name:52} " + " ".join(f"{row[size]:>9.0f}" for size in sizes))
    exceeded = [f"{name} at {size}" for name, row in table.items() for size in sizes
                if row[size] > BOUNDS[size] and not any(output in name for output in UNBOUNDED)]
    record_results(*(Result(f"{name}, {size}", row[size], "MB", None if any(output in name for output in UNBOUNDED)
                            else BOUNDS[size]) for name, row in table.items() for size in sizes))
    bounds = ", ".join(f"{BOUNDS[size]} MB at {size}" for size in sizes) + f" (without {', '.join(UNBOUNDED)})"
    print(f"bounds: {bounds}: {'met' if not exceeded else 'EXCEEDED by ' + '; '.join(exceeded)}")
    return int(bool(exceeded))


if __name__ == "__main__":
    sys.exit(main())
