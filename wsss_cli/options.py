"""Builds a command from a Config: every option's name, type, default, range, help and source come from its
field, so that no option is typed twice. The options of execution, shared by all commands, stand here."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from stages.errors import UsageError
from stages.settings import field_types, option_name


@dataclass(frozen=True)
class Variants:
    """The Configs of one command, of which the option `choice` takes one by name."""

    choice: str
    configs: Mapping[str, type]


@dataclass(frozen=True)
class Named:
    """A further input of a command, such as `--net FILE`."""

    name: str
    metavar: str
    help: str
    required: bool = True


CLIP = (Named("clip", "NAME|CONFIG.json|FILE.pt", "An open_clip model by name or config, or OpenAI's archive.  "
              "[default: ViT-B-16]", required=False),
        Named("weights", "FILE|TAG", "Its weights: a file, a tag of open_clip, or random.  [default: openai, where "
              "--clip is left out]", required=False))
_METAVARS = {int: "INT", float: "FLOAT", str: "TEXT"}
_NOUNS: dict[Any, str] = {int: "whole number", float: "number", str: "text", bool: "true or false"}


def _option(kind: Any, default: Any, *names: str, **described: Any) -> tuple[Any, Any]:
    return Annotated[kind, typer.Option(*names, **described)], default


OUTPUT = {"output": _option(str, ..., "-o", "--output", metavar="OUT",
                            help="A folder for the shards, or FILE.h5 for a run of one file.")}
FILE = {"output": _option(str, ..., "-o", "--output", metavar="FILE", help="The file to write.")}
OPTIONAL_FILE = {"output": _option(str, "", "-o", "--output", metavar="FILE", help="The file to write.")}
FOLDER = {"output": _option(str, ..., "-o", "--output", metavar="DIR", help="The folder to write to.")}
JSON = {"json": _option(bool, False, "--json", help="Print JSON.")}
ROOT = {
    "root": _option(str, "", "--root", metavar="DIR", envvar="WSSS_ROOT",
                    help="The folder of the images, where it has moved from where the index says."),
}
INDEX = {
    "index": _option(str, "", "--index", metavar="FILE|DIR",
                     help="The index, where it has moved from where the shard says."),
    **ROOT,
}
DRY_RUN = {"dry_run": _option(bool, False, "-n", "--dry-run", help="Tell what would be done, and do nothing.")}
REPLACE = {
    "force": _option(bool, False, "-f", "--force", help="Replace an output made with other settings."),
    **DRY_RUN,
}
REFUSED = {
    "strict": _option(bool, False, "--strict", help="Stop at the first image that is refused."),
    "retry": _option(bool, False, "--retry", help="Redo just the refused images of finished shards."),
    "allow_errors": _option(str, "0", "--allow-errors", metavar="N|P%",
                            help="End with 0 in spite of so many refused images."),
}
LOG = {
    "log": _option(str, "", "--log", metavar="FILE", show_default=False,
                   help="A log of JSON lines.  [default: OUT.log.jsonl; log.jsonl in a folder]"),
}
MAP = {
    "task": _option(str, "", "--task", metavar="I/N", help="Make only the parts P with P % N == I (from 0)."),
    "jobs": _option(int, 0, "-j", "--jobs", min=0, metavar="INT", show_default=False,
                    help="Shards in work at once, in processes.  [default: cores / threads, 1 on a GPU]"),
    "null": _option(bool, False, "-0", "--null", help="Paths on standard input end in NUL."),
    **LOG,
}
ARCHIVE = {
    "archive": _option(str, ..., "--from", metavar="FILE", help="The archive, as its makers give it away."),
    "output": _option(str, "", "-o", "--output", metavar="DIR", help="Where to put it.  [default: $NLTK_DATA, or "
                      "nltk_data beside the packages of Python]"),
}
REPAIR = {
    "repair": _option(bool, False, "--repair", help="Keep the sound images of a damaged shard in FILE.part, and "
                      "move it to FILE.damaged: the command that made it, run again, makes just the others."),
}
TRAIN = {
    "workers": _option(int, 2, "--workers", min=0, metavar="INT", help="Threads that read and augment images."),
    **LOG,
}
COLLAPSE = {
    "keep_going": _option(bool, False, "--keep-going", help="Go on where the classification has collapsed."),
}
PREVIEW = {
    "preview": _option(int | None, None, "--preview", min=1, metavar="N", show_default=False,
                       help="Draw N pairs to -o FILE.png, and train nothing."),
}
TALK = {
    "config_file": _option(str, "", "--config", metavar="RECIPE.toml",
                           help="Settings by section [stage.method]; the command line wins."),
    "quiet": _option(bool, False, "-q", "--quiet", help="Say nothing but errors."),
    "verbose": _option(int, 0, "-v", "--verbose", count=True, show_default=False, help="Say more."),
    "debug": _option(bool, False, "--debug", help="Show the traceback of an error."),
}


def named_options(named: tuple[Named, ...]) -> dict[str, tuple[Any, Any]]:
    """Return the options of further inputs."""
    return {one.name: _option(str if one.required else str | None, ... if one.required else None,
                              option_name(one.name), metavar=one.metavar, help=one.help) for one in named}


def config_options(config: type | Variants) -> dict[str, tuple[Any, Any]]:
    """Return one option per field of a Config; of Variants one per field of any, without a default where they differ.
    """
    if isinstance(config, Variants):
        return _options_of_all(config)
    kinds = field_types(config)
    return {field.name: _config_option(field, kinds[field.name]) for field in dataclasses.fields(config)}


def _options_of_all(config: Variants) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    fields = {name: {field.name: field for field in dataclasses.fields(one)} for name, one in config.configs.items()}
    for first in dict.fromkeys(name for one in fields.values() for name in one):
        holders = {name: one[first] for name, one in fields.items() if first in one}
        field, kinds = next(iter(holders.values())), field_types(config.configs[next(iter(holders))])
        alike = len(holders) == len(fields) and len({one.default for one in holders.values()}) == 1
        if first == config.choice:
            found[first] = _config_option(field, kinds[first], "needed")
        else:
            found[first] = _config_option(field, kinds[first], "" if alike else _told_by_variant(holders))
    return found


def _told_by_variant(holders: Mapping[str, dataclasses.Field]) -> str:
    """Return what each variant has as the default of a field, and where from."""
    return "; ".join(f"{name}: {_shown(one.default) or 'none'}"
                     + (f" ({one.metadata['source']})" if one.metadata.get("source") else "")
                     for name, one in holders.items())


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _config_option(field: dataclasses.Field, kind: Any, instead: str = "") -> tuple[Any, Any]:
    """Return a field's option; with the note `instead` it has no default, and no source but what that says."""
    described = field.metadata
    plain, optional, many = _plain_type(kind)
    notes = [instead or described["source"]] if instead or described.get("source") else []
    if described.get("unit"):
        notes.append(f"in {described['unit']}")
    text = described["help"] + (f"  [{'; '.join(notes)}]" if notes else "")
    name = option_name(field.name)
    default, wide = (None, True) if instead else (field.default, optional)
    if plain is bool:
        return _option(bool | None if wide else bool, default, f"{name}/--no-{name[2:]}", help=text)
    metavar = "|".join(filter(None, described["choices"])) or _METAVARS[plain] + (",..." if many else "")
    if many:
        return _option(str | None if wide else str, None if instead else _shown(field.default), name, metavar=metavar,
                       help=text)
    return _option(plain | None if wide else plain, default, name, help=text, metavar=metavar)


def _plain_type(kind: Any) -> tuple[Any, bool, bool]:
    """Return (the plain type, whether None is allowed, whether it is a comma list) of an annotation."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        inner = next(one for one in typing.get_args(kind) if one is not type(None))
        return inner, True, False
    if typing.get_origin(kind) is tuple:
        return typing.get_args(kind)[0], False, True
    return kind, False, False


def build_config(config: type | Variants, values: Mapping[str, Any]) -> Any:
    """Return a Config from option values: comma lists still as text, those of a recipe as TOML has them.

    Raises UsageError for a value of another type, and with Variants for a setting that the chosen one does not have.
    """
    if isinstance(config, Variants):
        config, values = _chosen(config, values)
    kinds = field_types(config)
    built: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        plain, optional, many = _plain_type(kinds[field.name])
        value = values[field.name]
        if many:
            built[field.name] = _split(field.name, value, plain)
        else:
            built[field.name] = None if value is None and optional else _typed(field.name, value, plain)
    return config(**built)


def _chosen(config: Variants, values: Mapping[str, Any]) -> tuple[type, dict[str, Any]]:
    """Return the Config that the values choose, and its values, with its own defaults where none was given."""
    option, wanted = option_name(config.choice), values[config.choice]
    if wanted not in config.configs:
        told = f"{option} {wanted!r} is not one of" if wanted else f"{option} is missing: give one of"
        raise UsageError(f"{told} {', '.join(config.configs)}")
    defaults = {field.name: field.default for field in dataclasses.fields(config.configs[wanted])}
    for name in config_options(config):
        if name not in defaults and values[name] is not None:
            raise UsageError(f"{option_name(name)} is no setting of {option} {wanted}", "leave it out")
    return config.configs[wanted], {name: default if values[name] is None else values[name]
                                    for name, default in defaults.items()}


def _split(name: str, value: Any, plain: Callable[[str], Any]) -> tuple[Any, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(_typed(name, one, plain) for one in value)
    try:
        return tuple(plain(one.strip()) for one in value.split(",") if one.strip())
    except (ValueError, AttributeError):
        raise UsageError(f"{option_name(name)} {value} is no comma list of numbers") from None


def _typed(name: str, value: Any, plain: Callable[[str], Any]) -> Any:
    """Return a value of a recipe in the field's own type, so that 1 and 1.0 are the same settings."""
    if plain is float and type(value) is int:
        return float(value)
    if type(value) is not plain:
        raise UsageError(f"{option_name(name)} {value!r} is no {_NOUNS[plain]}")
    return value


def signature(*groups: Mapping[str, tuple[Any, Any]]) -> inspect.Signature:
    """Return the signature that typer reads: one keyword per option of the groups, in their order."""
    parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for group in groups:
        for name, (kind, default) in group.items():
            given = inspect.Parameter.empty if default is ... else default
            parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind,
                                                default=given))
    return inspect.Signature(parameters)
