"""Run every command in the same way: options to a Config, paths to inputs, errors to one line and an exit code."""

from __future__ import annotations

import gc
import os
import stat
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from stages.errors import BadData, MissingInput, UsageError, WsssError, explain_memory_error, explain_write_error
from stages.flow.execution import Inputs, Output, Stop, Summary, parse_task
from stages.flow.path_stream import LivePaths
from stages.settings import validate_config
from wsss_cli import options
from wsss_cli.guarded_streams import restore_streams
from wsss_cli.help_pages import Command, Group
from wsss_cli.options import ConfigVariants, NamedInput
from wsss_cli.terminal_report import TerminalReport

_INTERNAL_ERROR_CODE = 70
_INTERRUPTED_CODE = 130
_COLLECTION_THRESHOLDS = (700, 10, 10)  # Python's own
BROKEN_PIPE_CODE = 141
CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"]}

_FROM_STDIN = "Paths are read from standard input when omitted or -."
_ARGUMENT_HELP = {
    "INDEX...": f"Index shards, or run folders. {_FROM_STDIN}",
    "INDEX|IMAGE...": f"Index shards, or image files and folders of photographs. {_FROM_STDIN}",
    "CAMS...": f"CAM shards, or run folders. {_FROM_STDIN}",
    "MASKS...": f"Mask shards, or run folders. {_FROM_STDIN}",
    "CAMS|MASKS...": f"CAM or mask shards, or run folders. {_FROM_STDIN}",
    "MASKS|INDEX...": f"Mask shards, or index shards with ground truth, or run folders. {_FROM_STDIN}",
    "FEATURES...": f"Feature shards, or run folders. {_FROM_STDIN}",
    "RUN...": f"Shards, or run folders. {_FROM_STDIN}",
    "RUN...|NAME=RUN,...": "Shards, or run folders. Several runs are compared with the first; NAME=RUN,RUN,... is a "
                           f"method with several seeds. {_FROM_STDIN}",
    "RUN|NET|LOG...": f"Shards or run folders, or networks or logs (.jsonl) of trainings. {_FROM_STDIN}",
    "INDEX|NET|MASKS...": f"An index, networks, and mask shards or run folders. {_FROM_STDIN}",
    "PROJECT": "Folder to write to; it is made if it does not exist.",
    "RUN|NET...": f"Shards or run folders, or networks, checkpoints (.part) or logs (.jsonl) of trainings. "
                  f"{_FROM_STDIN}",
    "FILE...": f"Shards or network files. {_FROM_STDIN}",
    "FILE|FOLDER...": f"Shards, network files or run folders. {_FROM_STDIN}",
    "TAR...": f"Archives of images and captions. {_FROM_STDIN}",
    "ROOT": "Folder of the data set.",
    "TABLE": "Table of image ids or paths and their tags.",
    "JSON...": f"COCO files of instances or captions. {_FROM_STDIN}",
    "YAML|DIR": "data.yaml, or the folder of the data set.",
    "XML|DIR": "annotations.xml, or the folder of the export.",
    "FOLDER": "Folder of the annotations.",
    "EXPORT": "JSON file of the export.",
    "DIR": "Folder of images, with one sub-folder per class if they are tagged.",
    "RESULTS.json": "File of results in COCO's format.",
    "RESULTS": "Folder of the files that another tool wrote.",
    "": "",  # no arguments
}


@dataclass(frozen=True)
class Call:
    """What a command passes to its stage."""

    stage: str
    config: Any
    inputs: Inputs
    output: Output
    stop: Stop
    report: TerminalReport
    values: Mapping[str, Any]

    def begin_work(self) -> None:
        """Begin to read the input: everything is imported, and from now on garbage is collected as usual."""
        gc.set_threshold(*_COLLECTION_THRESHOLDS)
        self.report.start_phase("reading the input")

    def run(self, run_stage: Callable[..., Summary]) -> Summary:
        """Call a stage's `run`."""
        self.begin_work()
        return run_stage(self.config, self.inputs, self.output, stop=self.stop, report=self.report)


def create_group(name: str, summary: str) -> typer.Typer:
    """Return an empty group of commands, for a stage that has several methods."""
    return typer.Typer(name=name, cls=Group, help=summary, short_help=summary, no_args_is_help=True,
                       rich_markup_mode=None, add_completion=False)


def add_command(app: typer.Typer, name: str, *, stage: str, run: Callable[[Call], Summary | None],
                config: type | ConfigVariants, example: str, summary: str, description: str,
                argument: str, named_inputs: tuple[NamedInput, ...] = (),
                option_groups: tuple[Mapping[str, tuple[Any, Any]], ...] = ()) -> None:
    """Add a command to `app`.

    Its help shows `summary` (one sentence), `example`, and `description` (what it reads and writes). `argument` is the
    metavar of its positional arguments ("": it has none), `named_inputs` are inputs with an option of their own,
    `option_groups` the options it shares with other commands.
    """
    described = typer.Argument(metavar=argument or None, hidden=not argument, show_default=False,
                               help=_ARGUMENT_HELP[argument])
    paths: dict[str, tuple[Any, Any]] = {"paths": (Annotated[list[str], described], [])}
    groups = (paths, options.build_input_options(named_inputs), *option_groups, options.build_config_options(config),
              options.COMMON)

    def command(**values: Any) -> None:
        _run_guarded(stage, values, lambda: _run_command(stage, values, config, named_inputs, run))

    signature = options.build_signature(*groups)
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
    lines = "\n".join(f"    {line}" for line in example.strip().splitlines())
    app.command(name, cls=Command, help=f"{summary}\n\n\b\nExample:\n{lines}\n\n{description}", short_help=summary,
                context_settings=CONTEXT_SETTINGS)(command)


def _run_command(stage: str, values: dict[str, Any], config: type | ConfigVariants,
                 named_inputs: tuple[NamedInput, ...], run: Callable[[Call], Summary | None]) -> int:
    """Run a stage with the values of all options; return the exit code."""
    output = _build_output(values)
    with TerminalReport(stage.split()[0], quiet=values["quiet"], verbose=bool(values["verbose"])) as report:
        summary = run(_build_call(stage, values, config, named_inputs, output, report)) or Summary()
        if not output.dry_run:
            report.print_summary(summary, output.path)
    if summary.has_more_errors_than(output.allow_errors):
        report.info(f"wsss {stage}: {_describe_failures(summary, values)}", always=True)
        return BadData.code
    return 0


def _describe_failures(summary: Summary, values: Mapping[str, Any]) -> str:
    """Return how many images failed, and what to do: where they failed first, since a repetition changes nothing."""
    counts = f"{summary.num_failed} of {summary.num_images} images failed"
    again = "--retry" if "retry" in values else "--force"
    remedy = f"Fix them and run the same command with {again}, or accept them with --allow-errors."
    if summary.num_inherited and summary.num_inherited == summary.num_failed:
        counts += f", all of them in the input {summary.failed_input} already"
        remedy = ("Fix them, run the command that made the input again with --retry and this one with --force, or "
                  "accept them with --allow-errors.")
    elif summary.num_inherited:
        counts += f", {summary.num_inherited} of them in the input {summary.failed_input} already"
    return (f"{counts}. `wsss info` lists them with the reasons. "
            f"{remedy if 'allow_errors' in values else 'The others are complete.'}")


def _build_call(stage: str, values: dict[str, Any], config: type | ConfigVariants, named_inputs: tuple[NamedInput, ...],
                output: Output, report: TerminalReport) -> Call:
    """Check the values of all options, and handle signals from now on."""
    recipe_has_section = _apply_recipe(values, config, stage)
    settings = validate_config(options.build_config(config, values))
    if not recipe_has_section:
        report.info(f"{values['config_file']} has no section [{stage.replace(' ', '.')}], so it changes no setting of "
                    "this command.")
    stop = Stop(before_exit=report.end_display)
    stop.install_handlers()
    paths = _collect_paths(values["paths"], report, null=values.get("null", False))
    inputs = Inputs(paths, _collect_named_inputs(named_inputs, values), values.get("index") or None,
                    values.get("root") or None)
    output.check_not_input(inputs)
    return Call(stage, settings, inputs, output, stop, report, values)


def _build_output(values: Mapping[str, Any]) -> Output:
    flags = ("force", "retry", "strict", "dry_run", "keep_going")
    return Output(Path(values.get("output") or ""), is_left_out=not values.get("output"),
                  task=parse_task(values.get("task") or None),
                  allow_errors=values.get("allow_errors", "0"), jobs=values.get("jobs", 0),
                  workers=values.get("workers", 2), log=Path(values["log"]) if values.get("log") else None,
                  tensorboard=Path(values["tensorboard"]) if values.get("tensorboard") else None,
                  reuse=values.get("reuse") or None,
                  profile=Path(values["profile"]) if values.get("profile") else None,
                  **{name: values.get(name, False) for name in flags})


def _apply_recipe(values: dict[str, Any], config: type | ConfigVariants, stage: str) -> bool:
    """Set the options that the command line leaves out to the values of the recipe.

    Return False if there is a recipe without settings for this stage.
    """
    if not values.get("config_file"):
        return True
    from wsss_cli.recipe import read_section
    settings = read_section(values["config_file"], stage, set(options.build_config_options(config)))
    for name, value in settings.items():
        if values["ctx"].get_parameter_source(name).name in ("DEFAULT", "DEFAULT_MAP"):
            values[name] = value
    return bool(settings)


def _collect_named_inputs(named_inputs: tuple[NamedInput, ...], values: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the named inputs, None for one that was left out. Raise UsageError for one that is empty."""
    for named in named_inputs:
        if values[named.name] is not None and not values[named.name].strip():
            raise UsageError(f"{options.option_name(named.name)} is empty", f"Give {named.metavar}, or leave it out")
    return {named.name: values[named.name] for named in named_inputs}


def _collect_paths(arguments: list[str], report: TerminalReport, *, null: bool) -> LivePaths | list[str]:
    if arguments and arguments != ["-"]:
        return arguments
    if arguments or _stdin_has_paths():
        return LivePaths(null=null, report=report)
    return []


def _stdin_has_paths() -> bool:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _run_guarded(stage: str, values: Mapping[str, Any], action: Callable[[], int]) -> None:
    """Run `action`; turn every exception into one line on standard error and an exit code."""
    code = 0
    try:
        code = action()
        sys.stdout.flush()
    except typer.Exit as ended:
        code = ended.exit_code
    except BrokenPipeError:
        # The reader of standard output has gone; nothing may be flushed into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = BROKEN_PIPE_CODE
    except WsssError as error:
        code = _print_error(stage, error, values)
    except KeyboardInterrupt:
        code = _INTERRUPTED_CODE
    except OSError as error:
        code = _print_error(stage, _explain_os_error(error), values)
    except Exception as error:
        internal_error = WsssError(f"internal error ({type(error).__name__}: {error})",
                                   "This is a bug in wsss. Run the same command with --debug to see where it happened")
        code = _print_error(stage, explain_memory_error(error, _suggest_less_memory(values)) or internal_error, values)
    restore_streams()
    raise typer.Exit(code)


def _suggest_less_memory(values: Mapping[str, Any]) -> str:
    """Return what to do when memory runs out. Another batch size is another setting, so the work starts over."""
    fewer_jobs = ", or with a smaller -j" if "jobs" in values else ""
    options_by_name = {"batch_size": "--batch-size", "crop_size": "--crop-size"}
    size_options = [option for name, option in options_by_name.items() if name in values]
    smaller_sizes = (f". A smaller {' or '.join(size_options)} needs less memory, but starts over"
                     if size_options else "")
    return f"Run the same command on a machine with more memory{fewer_jobs}{smaller_sizes}"


def _explain_os_error(error: OSError) -> WsssError:
    if isinstance(error, FileNotFoundError):
        return MissingInput("does not exist", "Check the path", where=str(error.filename))
    if isinstance(error, (PermissionError, IsADirectoryError)):
        return BadData(error.strerror or str(error), where=str(error.filename))
    return explain_write_error(error, error.filename or "")


def _print_error(stage: str, error: WsssError, values: Mapping[str, Any]) -> int:
    if values.get("debug"):
        traceback.print_exc()
    print(f"wsss {stage}: {error}", file=sys.stderr)
    return error.code


def require_paths(call: Call, metavar: str = "INPUT") -> list[str]:
    """Return the positional arguments as a list. Raise UsageError when there are none."""
    call.begin_work()
    paths = list(call.inputs.paths)
    if not paths:
        raise UsageError(f"{metavar} is missing", f"See `wsss {call.stage} --help`")
    return paths
