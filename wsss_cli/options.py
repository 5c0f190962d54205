"""Build the options of a command.

Those of a method come from the fields of its Config (name, type, default, help, source), so that none is defined twice.
Those of input, output and execution, which commands share, are defined here.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from stages.errors import UsageError
from stages.settings import field_types, option_name
from wsss_cli.help_pages import EXECUTION, GENERAL, INPUT_OUTPUT, TRAINING, find_section


@dataclass(frozen=True)
class ConfigVariants:
    """The Configs of one command, of which the option `selector` selects one by name."""

    selector: str
    configs: Mapping[str, type]


@dataclass(frozen=True)
class NamedInput:
    """An input that has an option of its own, such as `--net FILE`."""

    name: str
    metavar: str
    help: str
    required: bool = True


CLIP = (NamedInput("clip", "NAME|CONFIG.json|FILE.pt", "CLIP model: a name or config file of open_clip, or OpenAI's "
                   "archive.  [default: ViT-B-16]", required=False),
        NamedInput("weights", "FILE|TAG", "Weights of the CLIP model: a file, a tag of open_clip, or `random`.  "
                   "[default: openai, unless --clip is given]", required=False))
MAP_NETWORK = (
    NamedInput("net", "FILE|NAME", "Network whose last map gives the features: one trained with train-cls, or a "
               "pretrained one as [timm:|torchvision:|wsss:]NAME."),
    NamedInput("weights", "FILE|TAG", "Weights for a network given by name.", required=False))
_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}
_TYPE_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
Options = dict[str, tuple[Any, Any]]


def _build_option(kind: Any, default: Any, *names: str, section: str, **described: Any) -> tuple[Any, Any]:
    return Annotated[kind, typer.Option(*names, rich_help_panel=section, **described)], default


_build_io_option = partial(_build_option, section=INPUT_OUTPUT)
_build_execution_option = partial(_build_option, section=EXECUTION)
_build_general_option = partial(_build_option, section=GENERAL)

OUTPUT = {"output": _build_io_option(str, ..., "-o", "--output", metavar="OUT",
                                     help="Run folder for the output shards, or FILE.h5 to write a single shard.")}
FILE = {"output": _build_io_option(str, ..., "-o", "--output", metavar="FILE", help="Output file.")}
OPTIONAL_FILE = {"output": _build_io_option(str, "", "-o", "--output", metavar="FILE",
                                            help="Output file.  [default: standard output]", show_default=False)}
PICTURE = {"output": _build_io_option(str, "", "-o", "--output", metavar="FILE", show_default=False,
                                      help="Output file: .png, .jpg or .pdf. Required without --terminal.")}
PICTURE_OF_CURVES = _build_io_option(str, "", "-o", "--output", metavar="FILE", show_default=False,
                                     help="Write the curves of trainings to this file (.png, .jpg or .pdf) instead of "
                                     "printing text.")
FOLDER = {"output": _build_io_option(str, ..., "-o", "--output", metavar="DIR", help="Output folder.")}
JSON = {"json": _build_io_option(bool, False, "--json", help="Print JSON instead of a table.")}
TABLE_FORMAT = {
    "format": _build_io_option(str, "", "--format", metavar="text|tsv|json|markdown|latex", show_default=False,
                               help="Form of the result. LaTeX needs the package booktabs.  [default: text on a "
                               "terminal, json for --output, else tsv]"),
    "per_class": _build_io_option(bool, False, "--per-class", help="In tables of a comparison, show all of more than "
                                  "25 classes instead of the ten that differ most."),
}
SUMMARY_JSON = {"summary_json": _build_io_option(str, "", "--summary-json", metavar="FILE", show_default=False,
                                                 help="Write the summary of the index to this file too.")}
ROOT = {
    "root": _build_io_option(str, "", "--root", metavar="DIR", envvar="WSSS_ROOT",
                             help="Folder of the images, if they have moved since the index was made."),
}
INDEX = {
    "index": _build_io_option(str, "", "--index", metavar="FILE|DIR",
                              help="Index of the images, if it has moved since the input was made, or another index of "
                              "the same images and classes."),
    **ROOT,
}
DRY_RUN = {"dry_run": _build_execution_option(bool, False, "-n", "--dry-run",
                                              help="Show what would be done, without doing it.")}
OVERWRITE = {
    "force": _build_execution_option(bool, False, "-f", "--force",
                                     help="Replace an output that was made with other settings or inputs."),
    **DRY_RUN,
}
FAILED_IMAGES = {
    "strict": _build_execution_option(bool, False, "--strict", help="Stop at the first image that fails."),
    "retry": _build_execution_option(bool, False, "--retry",
                                     help="In finished shards, process only the images that failed."),
    "allow_errors": _build_execution_option(str, "0", "--allow-errors", metavar="N|P%",
                                            help="Exit with 0 if at most this many images fail (a number or a "
                                            "percentage)."),
}
REUSE = {
    "reuse": _build_execution_option(str, "", "--reuse", metavar="RUN", show_default=False,
                                     help="Take over the images of another run of this command that are unchanged, as "
                                     "when the index has grown, and compute the rest."),
}
LOG = {
    "log": _build_execution_option(str, "", "--log", metavar="FILE", show_default=False,
                                   help="Log of JSON lines.  [default: log.jsonl in the run folder; NAME.log.jsonl for "
                                   "FILE NAME.safetensors or NAME.h5]"),
}
EXECUTION_OPTIONS = {
    "task": _build_execution_option(str, "", "--task", metavar="I/N",
                                    help="Make only every N-th shard, starting with shard I (from 0), so that N "
                                    "processes or machines share the work."),
    "jobs": _build_execution_option(int, 0, "-j", "--jobs", min=0, metavar="INT", show_default=False,
                                    help="Worker processes, each making one shard at a time.  [default: cores / "
                                    "threads, at most 8; 1 on a GPU]"),
    "null": _build_io_option(bool, False, "-0", "--null",
                             help="Paths read from standard input are separated by NUL instead of newlines."),
    "profile": _build_execution_option(str, "", "--profile", metavar="FILE", show_default=False,
                                       help="Append to this file, as JSON lines, how long each shard was waited for, "
                                       "decoded, computed and written."),
    **LOG,
}
SHARE_OPTIONS = {
    "task": _build_execution_option(str, "", "--task", metavar="I/N",
                                    help="Count only the images of task I (from 0) of N; the last task to end writes "
                                    "the result of all. All of them get the same --output."),
    "jobs": _build_execution_option(int, 1, "-j", "--jobs", min=0, metavar="INT",
                                    help="Worker processes that share the images."),
}
INDEX_TASK = {
    "task": EXECUTION_OPTIONS["task"],
    "jobs": _build_execution_option(int, 0, "-j", "--jobs", min=0, metavar="INT", show_default=False,
                                    help="Threads that read images and masks.  [default: cores, at most 8]"),
}
ARCHIVE = {
    "archive": _build_io_option(str, ..., "--from", metavar="FILE", help="Archive to unpack, as it is distributed."),
    "output": _build_io_option(str, "", "-o", "--output", metavar="DIR", help="Folder to unpack into.  [default: "
                               "$NLTK_DATA, or nltk_data next to the Python packages]"),
}
REPAIR = {
    "repair": _build_execution_option(
        bool, False, "--repair", help="Keep the undamaged images of a damaged shard in FILE.part and move the shard to "
        "FILE.damaged. (Of an index no image is kept.) Re-running the command that made it then processes only the "
        "other images."),
}
TRAINING_OPTIONS = {
    "workers": _build_execution_option(int, 2, "--workers", min=0, metavar="INT",
                                       help="Threads that read and augment images."),
    "tensorboard": _build_execution_option(str, "", "--tensorboard", metavar="DIR", show_default=False,
                                           help="Write losses, metrics and the learning rate as TensorBoard events to "
                                           "this folder too (needs the extra wsss[tensorboard])."),
    **LOG,
}
COLLAPSE = {
    "keep_going": _build_option(bool, False, "--keep-going", section=TRAINING,
                                help="Continue training when the classifier has collapsed, instead of stopping."),
}
PREVIEW = {
    "preview": _build_io_option(int | None, None, "--preview", min=1, metavar="N", show_default=False,
                                help="Draw N training pairs to -o FILE.png instead of training."),
}
COMMON = {
    "config_file": _build_general_option(str, "", "--config", metavar="RECIPE.toml",
                                         help="Read settings from section [stage.method] of this file. Options on the "
                                         "command line take precedence."),
    "quiet": _build_general_option(bool, False, "-q", "--quiet", help="Print errors only."),
    "verbose": _build_general_option(int, 0, "-v", "--verbose", count=True, show_default=False,
                                     help="Print more about what is done."),
    "debug": _build_general_option(bool, False, "--debug", help="Print the traceback of an error."),
}


def build_image_output(default: str) -> Options:
    """Return the output of a command that also takes image files, for which it may be left out: a folder `default`."""
    return {"output": _build_io_option(str, "", "-o", "--output", metavar="OUT", show_default=False,
                                       help="Run folder for the output shards, or FILE.h5 to write a single shard. "
                                       f"Required unless the inputs are image files.  [default: {default}]")}


def build_input_options(named_inputs: tuple[NamedInput, ...]) -> Options:
    """Return one option per further input of a command."""
    return {named.name: _build_io_option(str if named.required else str | None, ... if named.required else None,
                                         option_name(named.name), metavar=named.metavar, help=named.help)
            for named in named_inputs}


def build_config_options(config: type | ConfigVariants) -> Options:
    """Return one option per field of a Config.

    Of variants, return one option per field of any variant; it has no default where the variants' defaults differ.
    """
    if isinstance(config, ConfigVariants):
        return _build_variant_options(config)
    types_by_field, trains = field_types(config), _trains_network(config)
    return {field.name: _build_config_option(field, types_by_field[field.name], trains=trains)
            for field in dataclasses.fields(config)}


def _trains_network(config: type) -> bool:
    return any(field.name == "epochs" for field in dataclasses.fields(config))


def _build_variant_options(variants: ConfigVariants) -> Options:
    options: Options = {}
    fields = {name: {field.name: field for field in dataclasses.fields(config)}
              for name, config in variants.configs.items()}
    trains = any(_trains_network(config) for config in variants.configs.values())
    for field_name in dict.fromkeys(name for fields_by_name in fields.values() for name in fields_by_name):
        holders = {variant: fields_by_name[field_name] for variant, fields_by_name in fields.items()
                   if field_name in fields_by_name}
        variant, field = next(iter(holders.items()))
        kind = field_types(variants.configs[variant])[field_name]
        is_shared = len(holders) == len(fields) and len({holder.default for holder in holders.values()}) == 1
        note = "" if is_shared else _describe_defaults(holders)
        if field_name == variants.selector:
            note = "required"
        options[field_name] = _build_config_option(field, kind, trains=trains, note=note)
    return options


def _describe_defaults(holders: Mapping[str, dataclasses.Field]) -> str:
    """Return the default of a field in each variant, and its source."""
    return "; ".join(f"{variant}: {_format_value(field.default) or 'none'}"
                     + (f" ({field.metadata['source']})" if field.metadata.get("source") else "")
                     for variant, field in holders.items())


def _format_value(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _build_config_option(field: dataclasses.Field, kind: Any, *, trains: bool, note: str = "") -> tuple[Any, Any]:
    """Return the option of a field; with a `note`, which then stands for its source, it has no default."""
    metadata = field.metadata
    plain_type, is_optional, is_list = _split_type(kind)
    notes = [note or metadata["source"]] if note or metadata.get("source") else []
    if metadata.get("unit"):
        notes.append(f"in {metadata['unit']}")
    text = metadata["help"] + (f"  [{'; '.join(notes)}]" if notes else "")
    name = option_name(field.name)
    default, may_be_none = (None, True) if note else (field.default, is_optional)
    build_option = partial(_build_option, section=find_section(field.name, trains=trains), help=text)
    if plain_type is bool:
        return build_option(bool | None if may_be_none else bool, default, f"{name}/--no-{name[2:]}")
    metavar = "|".join(filter(None, metadata["choices"])) or _METAVARS[plain_type] + (",..." if is_list else "")
    if is_list:
        return build_option(str | None if may_be_none else str, None if note else _format_value(field.default), name,
                            metavar=metavar)
    return build_option(plain_type | None if may_be_none else plain_type, default, name, metavar=metavar)


def _split_type(annotation: Any) -> tuple[Any, bool, bool]:
    """Return (the plain type, whether None is allowed, whether it is a comma-separated list) of an annotation."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        plain_type = next(kind for kind in typing.get_args(annotation) if kind is not type(None))
        return plain_type, True, False
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], False, True
    return annotation, False, False


def build_config(config: type | ConfigVariants, values: Mapping[str, Any]) -> Any:
    """Return a Config from option values: lists are comma-separated text, or lists where a recipe gives them.

    Raises UsageError for a value of another type, and for a setting that the chosen variant does not have.
    """
    if isinstance(config, ConfigVariants):
        config, values = _select_variant(config, values)
    types_by_field = field_types(config)
    settings: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        plain_type, is_optional, is_list = _split_type(types_by_field[field.name])
        value = values[field.name]
        if is_list:
            settings[field.name] = _parse_list(field.name, value, plain_type)
        else:
            settings[field.name] = (None if value is None and is_optional
                                    else _convert_value(field.name, value, plain_type))
    return config(**settings)


def _select_variant(variants: ConfigVariants, values: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    """Return the Config that the values select, and its values, with its own defaults where none was given."""
    option, name = option_name(variants.selector), values[variants.selector]
    if name not in variants.configs:
        choices = ", ".join(variants.configs)
        if name:
            raise UsageError(f"{option} {name!r} is not one of {choices}")
        raise UsageError(f"{option} is missing", f"Choose one of {choices}")
    defaults = {field.name: field.default for field in dataclasses.fields(variants.configs[name])}
    for field_name in build_config_options(variants):
        if field_name not in defaults and values[field_name] is not None:
            raise UsageError(f"{option_name(field_name)} has no effect with {option} {name}", "Leave it out")
    return variants.configs[name], {field_name: default if values[field_name] is None else values[field_name]
                                    for field_name, default in defaults.items()}


def _parse_list(name: str, value: Any, plain_type: Callable[[str], Any]) -> tuple[Any, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(_convert_value(name, element, plain_type) for element in value)
    try:
        return tuple(plain_type(element.strip()) for element in value.split(",") if element.strip())
    except (ValueError, AttributeError):
        raise UsageError(f"{option_name(name)} {value} is not a list of numbers",
                         f"Separate them by commas: {option_name(name)} 1,2") from None


def _convert_value(name: str, value: Any, plain_type: Callable[[str], Any]) -> Any:
    """Return a value of a recipe in the field's own type, so that 1 and 1.0 are the same setting."""
    if plain_type is float and type(value) is int:
        return float(value)
    if type(value) is not plain_type:
        raise UsageError(f"{option_name(name)} {value!r} is not {_TYPE_NAMES[plain_type]}")
    return value


def build_signature(*groups: Mapping[str, tuple[Any, Any]]) -> inspect.Signature:
    """Return the signature that typer reads: one keyword per option of the groups, in their order."""
    parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for group in groups:
        for name, (annotation, default) in group.items():
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation,
                                                default=inspect.Parameter.empty if default is ... else default))
    return inspect.Signature(parameters)
