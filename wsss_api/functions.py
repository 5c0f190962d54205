"""Makes a Python function of every command, with the command's settings in its signature and in its docstring."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

from stages.errors import UsageError
from stages.settings import field_types
from wsss_api.commands import COMMANDS, Command, load_configs, name_in_python
from wsss_api.errors import suggest_similar
from wsss_api.results import Result

_OPTION_DEFAULTS = {"jobs": 1, "workers": 2, "allow_errors": "0", **dict.fromkeys(
    ("force", "dry_run", "strict", "retry", "keep_going", "repair"), False)}
StageFunction = Callable[..., Result]
_OPTION_HELP = {
    "output": "The file or folder to write.", "force": "Replace an output that was made with other settings or inputs.",
    "dry_run": "Report what would be done, without doing it.", "strict": "Stop at the first image that fails.",
    "retry": "In finished shards, process only the images that failed.",
    "allow_errors": "Raise no error if at most this many images fail (a number or a percentage).",
    "task": "(I, N): make only every N-th shard, starting with shard I.",
    "jobs": "Worker processes; 1 computes in this process.", "log": "The log of JSON lines.",
    "profile": "A file to which lines of JSON are appended that say what took how long.",
    "workers": "Threads that read and augment images.", "root": "Folder of the images, if they have moved.",
    "index": "Index of the images, if it has moved.", "keep_going": "Continue when the classifier has collapsed.",
    "tensorboard": "Folder to write TensorBoard events to as well.",
    "reuse": "Another run of this command, whose unchanged images are taken over.",
    "summary_json": "Also write the summary of the index, the `value` of the result, to this file.",
    "preview": "Draw this many training pairs instead of training.", "repair": "Keep undamaged images of a shard.",
}


class CommandGroup:
    """The commands of a stage that has several methods: `wsss.cams.cnn`, `wsss.cams.clip_es`, ..."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self.__doc__ = "\n".join((f"The commands of `wsss {stage}`:", "", *(
            f"{command.function_name}: {command.summary}" for command in self._commands().values())))

    def _commands(self) -> dict[str, Command]:
        return {name_in_python(command.method): command for command in COMMANDS.values()
                if command.stage == self._stage}

    def __getattr__(self, name: str) -> StageFunction:
        commands = {} if name.startswith("_") else self._commands()
        if name not in commands:
            raise AttributeError(f"wsss {self._stage} has no method {name!r}. "
                                 f"{suggest_similar(name, commands, 'methods')}")
        function = build_function(commands[name])
        setattr(self, name, function)
        return function

    def __call__(self, *_inputs: Any, **_settings: Any) -> Result:
        """Raise UsageError: the method is missing."""
        names = [f"wsss.{command.function_name}" for command in self._commands().values()]
        raise UsageError(f"wsss {self._stage} has several methods", f"Call {' or '.join(names[:8])}")

    def __dir__(self) -> Iterable[str]:
        return self._commands()

    def __repr__(self) -> str:
        return f"<wsss.{name_in_python(self._stage)}: {', '.join(self._commands())}>"


def build_function(command: Command) -> StageFunction:
    """Return the function of a command: `wsss.run` with the name of the command filled in."""
    def function(*inputs: Any, report: Any = None, **values: Any) -> Result:
        from wsss_api.calls import run_command
        return run_command(command.name, inputs, report, values)

    function.__name__ = command.function_name.rpartition(".")[2]
    function.__qualname__, function.__module__ = command.function_name, "wsss"
    function.__doc__ = describe_command(command)
    function.__signature__ = _build_signature(command)  # type: ignore[attr-defined]
    return function


def describe_command(command: Command) -> str:
    """Return the documentation of a command: its summary, and one line per argument."""
    lines = [command.summary, "", f"`wsss {command.name}` in Python: the same settings, defaults and results. "
             f"`wsss {command.name} --help` says more.", "", f"inputs: {command.inputs or 'none'}"]
    lines += [f"{name}: The input --{name.replace('_', '-')}, required." for name in command.required]
    lines += [f"{name}: The input --{name.replace('_', '-')}." for name in command.optional]
    lines += [f"{field.name} = {field.default!r}: {field.metadata['help']}" for field in _list_fields(command)]
    lines += [f"{name}: {_OPTION_HELP[name]}" for name in command.options]
    return "\n".join((*lines, "report: A function that receives every message, such as print, or a wsss.Report."))


def _list_fields(command: Command) -> list[dataclasses.Field[Any]]:
    """Return the settings of a command; of variants, those that any of them has."""
    fields = (field for config in load_configs(command).values() for field in dataclasses.fields(config))
    return list({field.name: field for field in fields}.values())


def _build_signature(command: Command) -> inspect.Signature:
    kinds: dict[str, Any] = {}
    for config in load_configs(command).values():
        kinds |= field_types(config)
    only = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter("inputs", inspect.Parameter.VAR_POSITIONAL)] if command.inputs else []
    parameters += [inspect.Parameter(name, only) for name in command.required]
    parameters += [inspect.Parameter(name, only, default=_OPTION_DEFAULTS.get(name))
                   for name in (*command.optional, *command.options)]
    parameters += [inspect.Parameter(field.name, only, default=field.default, annotation=kinds[field.name])
                   for field in _list_fields(command)]
    return inspect.Signature([*parameters, inspect.Parameter("report", only, default=None)], return_annotation=Result)
