"""Calls a command: keyword arguments to settings, inputs and outputs, and the summary of the stage to a Result."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from stages.errors import (
    BadData,
    MissingInput,
    UsageError,
    WsssError,
    explain_memory_error,
    explain_write_error,
)
from stages.flow.execution import Inputs, Output, Stop, Summary, parse_task
from wsss_api.adapters import ADAPTERS, Call
from wsss_api.commands import COMMANDS, Command, load_configs
from wsss_api.errors import suggest_similar
from wsss_api.reports import CollectingReport, ReportOption, restore_threads
from wsss_api.results import FailedImages, Result
from wsss_api.runs import list_paths
from wsss_api.settings import build_settings

_OUTPUT_FLAGS = ("force", "retry", "strict", "dry_run", "keep_going", "workers")
_EXTRA = ("preview", "repair", "summary_json")


def find_command(name: str) -> Command:
    """Return the command of a name such as "cams cnn". Raises UsageError for any other."""
    words = " ".join(name.split())
    if words not in COMMANDS:
        methods = [command for command in COMMANDS if command.split()[0] == words]
        remedy = f"Use {' or '.join(methods[:12])}" if methods else suggest_similar(words, COMMANDS, "commands")
        raise UsageError(f"there is no command {name!r}", remedy)
    return COMMANDS[words]


def run_command(name: str, inputs: tuple[Any, ...], report: ReportOption, values: Mapping[str, Any]) -> Result:
    """Run a command; see `wsss.run`."""
    command = find_command(name)
    named = {key: values.get(key) for key in (*command.required, *command.optional)}
    options = {key: values[key] for key in command.options if values.get(key) is not None}
    settings = {key: value for key, value in values.items() if key not in named and key not in command.options}
    for key in command.required:
        if named[key] is None:
            raise UsageError(f"{key} is missing", f"Pass {key}=...", where=command.name)
    config = build_settings(*_choose_config(command, settings), command.name, (*named, *command.options))
    collecting = CollectingReport(report)
    call = Call(command.method, config, _build_inputs(inputs, named, options), _build_output(options), Stop(),
                collecting, {key: options.get(key) for key in _EXTRA})
    call.output.check_not_input(call.inputs)
    summary, value = _run_stage(command, call)
    result = _build_result(command, call, summary, value)
    if summary.has_more_errors_than(call.output.allow_errors):
        raise FailedImages.build(result, command.options)
    return result


def _choose_config(command: Command, settings: Mapping[str, Any]) -> tuple[type, Mapping[str, Any]]:
    configs = load_configs(command)
    if not command.has_variants:
        return configs[""], settings
    if settings.get("base") not in configs:
        problem = f"base={settings['base']!r} is not one of" if "base" in settings else "base is missing; choose one of"
        raise UsageError(f"{problem} {', '.join(configs)}", where=command.name)
    return configs[settings["base"]], settings


def _build_inputs(inputs: tuple[Any, ...], named: Mapping[str, Any], options: Mapping[str, Any]) -> Inputs:
    index = named.get("index") or options.get("index")  # commands of import require it
    return Inputs(list_paths(inputs), {key: _convert_path(key, value) for key, value in named.items()},
                  _convert_path("index", index), _convert_path("root", options.get("root")))


def _convert_path(name: str, value: Any) -> str | None:
    """Return a named input as text: a path, the output of a result, or a run given as an object. Raises UsageError."""
    if value is None or isinstance(value, str):
        text = value
    elif isinstance(value, Result):
        text = str(value.path)
    elif isinstance(value, os.PathLike):
        text = os.fspath(value)
    elif hasattr(value, "path"):  # a Net
        text = str(value.path)
    elif hasattr(value, "paths"):  # a Run
        text = str(value.paths[0] if len(value.paths) == 1 else value.paths[0].parent)
    elif name == "words":
        text = "".join(f"{word};" for word in value)
    else:
        raise UsageError(f"{name} can't be a {type(value).__name__}", "Pass a path, or the result of another command")
    if text is not None and not text.strip():
        raise UsageError(f"{name} is empty", "Pass a value, or leave it out")
    return text


def _build_output(options: Mapping[str, Any]) -> Output:
    path, task = options.get("output"), options.get("task")
    log, profile, tensorboard = (Path(options[name]) if options.get(name) else None
                                 for name in ("log", "profile", "tensorboard"))
    if isinstance(task, tuple):
        task = f"{task[0]}/{task[1]}"
    # In this process unless jobs says otherwise: a process started from a script without `if __name__ ==
    # "__main__"` would run the script again.
    return Output(Path(path or ""), is_left_out=not path, task=parse_task(task), jobs=options.get("jobs") or 1,
                  allow_errors=str(options.get("allow_errors", "0")), log=log, profile=profile, tensorboard=tensorboard,
                  reuse=_convert_path("reuse", options.get("reuse")),
                  **{name: options[name] for name in _OUTPUT_FLAGS if name in options})


def _run_stage(command: Command, call: Call) -> tuple[Summary, Any]:
    """Call the stage. Raises the errors of the stages also for what the system or the memory refuses."""
    if call.output.is_left_out and "output" in command.options and not _may_omit_output(command, call):
        raise UsageError("output is missing", "Pass output=...", where=command.name)
    try:
        with restore_threads() if command.needs_torch else nullcontext():
            if command.is_adapted:
                return ADAPTERS[command.run](call)
            run = getattr(importlib.import_module(f"{command.folder}.stage"), command.run)
            method = (command.method,) if command.takes_method else ()
            return run(*method, call.config, call.inputs, call.output, stop=call.stop, report=call.report), None
    except WsssError:
        raise
    except OSError as error:
        raise _explain_os_error(error) from error
    except (MemoryError, RuntimeError) as error:
        explained = explain_memory_error(error, "Use a smaller max_side, batch_size or crop_size, or fewer jobs")
        if explained is None:
            raise
        raise explained from error


def _may_omit_output(command: Command, call: Call) -> bool:
    """Return whether the stage itself finds out if it needs an output: those that take image files, and tables."""
    if command.stage in ("eval", "show", "log", "setup"):
        return True
    return "IMAGE" in command.inputs and not any(path.endswith(".h5") for path in call.inputs.paths)


def _explain_os_error(error: OSError) -> WsssError:
    where = str(error.filename or "")
    if isinstance(error, FileNotFoundError):
        return MissingInput("does not exist", "Check the path", where=where)
    if isinstance(error, (PermissionError, IsADirectoryError)):
        return BadData(error.strerror or str(error), where=where)
    return explain_write_error(error, where)


def _build_result(command: Command, call: Call, summary: Summary, value: Any) -> Result:
    paths = tuple(dict.fromkeys(call.report.paths))
    output: Path | None = call.output.path
    if call.output.is_left_out:
        output = paths[0].parent if paths else None
    return Result(command.name, paths, output, value, tuple(call.report.messages), summary.num_images,
                  summary.num_failed, summary.num_reduced, summary.num_written, summary.num_up_to_date,
                  summary.num_reused)
