"""Writes the command of one step of a provenance: its input, the files it needs besides, and its settings.

Files are known by their digests, so `find_name` gives them names. Settings with their default are left out.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stages.data.words_option import parse_words_option
from stages.errors import WsssError

# What is recorded under the name of an input, and the option that takes it; "" for the argument of the command.
_MAIN_INPUTS = {"refine": "cams", "pseudo": "cams", "bank": "masks", "cluster": "features"}
_OPTIONS = {name: f"--{name.replace('_', '-')}" for name in
            ("net", "weights", "cams", "masks", "clusters", "cooc", "proxy", "proxy_weights", "annotations",
             "classes_of", "regions", "bank")}
_FILE_NAMES = {"net": "net.safetensors", "weights": "weights.pth", "clip_weights": "clip.pt", "clusters": "clusters.h5",
               "cooc": "cooc.h5", "proxy_weights": "proxy.pth", "annotations": "annotations.json",
               "nouns": "nouns.csv", "classes_of": "net.safetensors", "results": "results.json", "folder": "results"}
# Where the data set is recorded nowhere, the command has an example.
_DATA_SETS = {"table": "labels.csv --images photographs", "coco": "annotations.json --images photographs",
              "webdataset": "images.tar", "yolo": "data.yaml", "cvat": "annotations.xml", "labelstudio": "export.json"}
_ALWAYS_GIVEN = ("base",)  # settings of which the command line has no default
_WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
DIGEST_CHARACTERS = 64
SHOWN_CHARACTERS = 12
FindName = Callable[[str], str]


def get_dict(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a part of an entry; empty if another program stored something else there."""
    value = entry.get(name)
    return value if isinstance(value, dict) else {}


def find_main_input(entry: Mapping[str, Any]) -> str:
    """Return the digest of what the step before an entry wrote, or ""."""
    inputs, stage = get_dict(entry, "inputs"), entry.get("stage")
    if stage == "merge":
        return str(next(iter(inputs.values()), ""))
    if stage == "segment" and "cams" in inputs:
        return str(inputs["cams"])
    if stage == "refine" and "masks" in inputs:
        return str(inputs["masks"])
    return str(inputs.get(_MAIN_INPUTS.get(str(stage), "index"), ""))


def list_words(entry: Mapping[str, Any], source: str, output: str, find_name: FindName,
               classes: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Return the words of the command that repeats an entry, and notes about what is recorded nowhere.

    `source` is the file that the step before wrote, "" if there is none. `find_name` returns the name of a file with a
    digest, "" for an unknown one. `classes` are those of the output, as far as they are known.
    """
    stage, method = str(entry.get("stage")), str(entry.get("method") or "")
    config, notes = get_dict(entry, "config"), []
    num_processes = config.get("processes")
    is_parallel = isinstance(num_processes, int) and num_processes > 1
    program = ["torchrun", "--nproc_per_node", str(num_processes), "-m", "wsss_cli"] if is_parallel else ["wsss"]
    argument, options = _list_argument(stage, method, entry, source, find_name, notes)
    words = [*program, stage, *([method] if method else []), *argument, *options]
    words += _list_inputs(stage, entry, find_name, notes)
    words += list_word_options(get_dict(config, "words"), classes)
    words += list_options(stage, method, config, notes)
    return [*words, "-o", output], notes


def _list_argument(stage: str, method: str, entry: Mapping[str, Any], source: str, find_name: FindName,
                   notes: list[str]) -> tuple[list[str], list[str]]:
    """Return the argument of a command and the options that belong to it."""
    if stage == "import":
        kind = "results" if method == "coco" else "folder"
        digest = str(get_dict(entry, "inputs").get(kind, ""))
        argument = _name_file(kind, digest, find_name, "What was imported", notes)
        no_annotations = method == "coco" and "annotations" not in get_dict(entry, "inputs")
        return [argument], ["--index", source or "index.h5", *(["--annotations", "none"] if no_annotations else [])]
    if stage == "index" and method != "split":
        notes.append("Where the data set is, and its lists and masks, is not recorded: put in your own.")
        return _DATA_SETS.get(method, "dataset").split(), []
    if not source:
        notes.append("Where the photographs are is not recorded: put in your own folder.")
    return [source or "photographs"], []


def _list_inputs(stage: str, entry: Mapping[str, Any], find_name: FindName, notes: list[str]) -> list[str]:
    """Return the options for further files."""
    inputs, words = get_dict(entry, "inputs"), []
    for name, option in _OPTIONS.items():
        if name not in inputs or stage == "merge" or str(inputs[name]) == find_main_input(entry):
            continue
        words += [option, _name_file(name, str(inputs[name]), find_name, f"The file of {option}", notes)]
    if "text_centres" in inputs:
        notes.append("The file of --text-shift is known by its name and its sha256 "
                     f"{str(inputs['text_centres'])[:SHOWN_CHARACTERS]} only.")
    if "clip_weights" in inputs:
        words += _list_clip(entry, find_name, notes)
    if inputs.get("selector") == "file":
        words += ["--nouns-file", _name_file("nouns", str(inputs.get("nouns", "")), find_name, "The table of nouns",
                                             notes)]
    return words


def _name_file(name: str, value: str, find_name: FindName, subject: str, notes: list[str]) -> str:
    """Return the name of a file with a digest, or a recorded name; an example's name and a note if it is unknown."""
    if value and len(value) != DIGEST_CHARACTERS:
        return value
    known = find_name(value)
    if not known:
        more = " Add it to the report with --net to see its history." if name == "net" else ""
        notes.append(f"{subject} is known by its sha256 {value[:SHOWN_CHARACTERS]} only.{more}")
    return known or _FILE_NAMES.get(name, name)


def _list_clip(entry: Mapping[str, Any], find_name: FindName, notes: list[str]) -> list[str]:
    """Return --clip and --weights; the model is recorded by name, or by the digest of its configuration."""
    inputs = get_dict(entry, "inputs")
    architecture, weights = str(inputs.get("clip", "")), str(inputs["clip_weights"])
    known = find_name(weights)
    is_file = known.endswith(_WEIGHT_SUFFIXES)
    file = known if is_file or weights == "random" else _FILE_NAMES["clip_weights"]
    name = str(get_dict(entry, "config").get("clip") or ("" if is_file else known) or "ViT-B-16")
    if weights == "random":
        file = weights
    elif not is_file:
        notes.append(f"The weights of CLIP {name} are known by their sha256 {weights[:SHOWN_CHARACTERS]} only; "
                     "--weights also takes a tag of open_clip, such as openai.")
    return ["--clip", file] if architecture == "openai" else [
        "--clip", find_name(architecture) or name, "--weights", file]


def list_options(stage: str, method: str, config: Mapping[str, Any], notes: list[str] | None = None) -> list[str]:
    """Return the options of a command that give it the recorded settings, without those that are its defaults."""
    fields = find_fields(stage, method, config)
    options: list[str] = []
    for name, value in config.items():
        if name not in fields or value in (None, "default"):
            continue
        text = format_templates(value, notes) if name == "template" else format_value(value)
        if text is None or (text == format_value(fields[name]) and name not in _ALWAYS_GIVEN):
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            options.append(option if value else f"--no-{option[2:]}")
        elif text or isinstance(fields[name], str):
            options += [option, text]
        if isinstance(value, dict) and value.get("chosen_on") not in (None, "given") and notes is not None:
            notes.append(f"{option} was chosen on the ground truth by `wsss eval`; here it is given.")
    return options


def format_value(value: Any) -> str | None:
    """Return a recorded setting as the command line takes it; None for a record that is not an option."""
    if isinstance(value, dict):
        rule = value.get("rule")
        return rule if isinstance(rule, str) else None
    if isinstance(value, (list, tuple)):
        is_plain = all(isinstance(element, (str, int, float)) for element in value)
        return ",".join(map(str, value)) if is_plain else None
    return None if value is None else str(value)


def format_templates(value: Any, notes: list[str] | None = None) -> str | None:
    """Return recorded prompt templates as --template takes them: one itself, the name of a set, or a file's name."""
    if not isinstance(value, list) or not all(isinstance(template, str) for template in value):
        return format_value(value)
    if len(value) == 1:
        return value[0]
    from stages.nets.prompt_encoding import load_templates

    name = next((name for name in ("tcl", "imagenet") if list(load_templates(name)) == value), None)
    if name is None and notes is not None:
        notes.append(f"templates.txt holds the {len(value)} templates, one per line: {' | '.join(value)}")
    return name or "templates.txt"


def list_word_options(words: Mapping[str, Any], classes: Sequence[str] = ()) -> list[str]:
    """Return --words for words that were typed or read from a file; nothing for those of the index or of a preset.

    `classes` are the names of the background and the classes; without them, a class has the name of its first word.
    """
    source, lists, background = words.get("source"), words.get("classes"), words.get("background")
    if not isinstance(source, str) or not isinstance(lists, list) or not lists:
        return []
    if source != "--words":
        return ["--words", source] if source.endswith((".txt", ".csv", ".tsv", ".names")) else []
    try:
        names = classes[1:] if len(classes) == len(lists) + 1 else [of_class[0] for of_class in lists]
        text = "; ".join(name if [name] == of_class else f"{name} = {', '.join(of_class)}"
                         for name, of_class in zip(names, lists, strict=True)) + (";" if len(lists) == 1 else "")
        if list(parse_words_option(text).background) != background:
            text = f"{text.rstrip(';')}; background = {', '.join(background or ())}"
    except (WsssError, IndexError, TypeError):
        return []
    return ["--words", text]


def find_fields(stage: str, method: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a command and their defaults: of the settings class that is named as the method.

    Of several that could be meant, the one that shares the most settings with `config`. Empty for an unknown stage.
    """
    try:
        module = importlib.import_module(f"stages.{'import_' if stage == 'import' else stage.replace('-', '_')}.config")
    except ImportError:
        return {}
    classes = [value for value in vars(module).values() if isinstance(value, type) and dataclasses.is_dataclass(value)]
    words = (method or stage.split("-")[-1]).replace("-", " ").split()
    name = f"{''.join(word.capitalize() for word in words)}Config"

    def rank(candidate: type) -> tuple[bool, int]:
        names = {field.name for field in dataclasses.fields(candidate)}
        return candidate.__name__ == name, len(names & config.keys()) - len(names - config.keys())

    best = max(classes, key=rank, default=None)
    return {} if best is None else {field.name: field.default for field in dataclasses.fields(best)}

