"""One way to run every command: options to Config, inputs and output; errors to one line and a code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from stages.errors import BadData, MissingInput, UsageError, WsssError, refused_memory, refused_write
from stages.flow.execution import Inputs, Output, Stop, Summary, parse_task
from stages.flow.stream import LivePaths
from stages.settings import checked
from wsss_cli import options
from wsss_cli.options import Named, Variants
from wsss_cli.report import TerminalReport

_FAULT = 70
BROKEN_PIPE = 141


@dataclass(frozen=True)
class Call:
    """What a command hands to its stage."""

    config: Any
    inputs: Inputs
    output: Output
    stop: Stop
    report: TerminalReport
    values: Mapping[str, Any]

    def run(self, run: Callable[..., Summary]) -> Summary:
        """Call a stage's `run`."""
        return run(self.config, self.inputs, self.output, stop=self.stop, report=self.report)


def group(name: str, line: str) -> typer.Typer:
    """Return the sub-commands of a stage that has several methods."""
    return typer.Typer(name=name, help=line, no_args_is_help=True, rich_markup_mode=None, add_completion=False)


def add(app: typer.Typer, name: str, *, stage: str, run: Callable[[Call], Summary | None], config: type | Variants,
        example: str, text: str, inputs: str = "INPUT...", named: tuple[Named, ...] = (),
        extra: tuple[Mapping[str, tuple[Any, Any]], ...] = ()) -> None:
    """Add a command to `app`.

    `example` leads its help, `text` says what it reads and writes, `inputs` is the metavar of its arguments ("": it
    has none), `named` are its further inputs, `extra` the groups of execution options that it takes.
    """
    described = typer.Argument(metavar=inputs or None, hidden=not inputs, show_default=False,
                               help="Paths; - or nothing: one a line on standard input.")
    argument: dict[str, tuple[Any, Any]] = {"paths": (Annotated[list[str], described], [])}
    groups = (argument, *extra, options.named_options(named), options.config_options(config), options.TALK)

    def command(**values: Any) -> None:
        _guarded(stage, values, lambda: _carry_out(stage, values, config, named, run))

    command.__signature__ = options.signature(*groups)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in command.__signature__.parameters.values()}  # type: ignore[attr-defined]
    lines = "\n".join(f"    {line}" for line in example.strip().splitlines())
    command.__doc__ = f"Example:\n\b\n{lines}\n\n{text}"
    app.command(name, help=f"\b\nExample:\n{lines}\n\n{text}", short_help=text.split(".")[0] + ".",
                context_settings={"help_option_names": ["-h", "--help"]})(command)


def _carry_out(stage: str, values: dict[str, Any], config: type | Variants, named: tuple[Named, ...],
               run: Callable[[Call], Summary | None]) -> int:
    taken = _take_recipe(values, config, stage)
    settings = checked(options.build_config(config, values))
    report = TerminalReport(quiet=values["quiet"], verbose=bool(values["verbose"]))
    if not taken:
        report.tell(f"{values['config_file']} has no settings in [{stage.replace(' ', '.')}], so none is taken from it")
    stop = Stop()
    stop.install()
    paths = _paths(values["paths"], values.get("null", False))
    inputs = Inputs(paths, _named(named, values), values.get("index") or None, values.get("root") or None)
    output = Output(
        Path(values.get("output") or ""), task=parse_task(values.get("task") or None),
        allow_errors=values.get("allow_errors", "0"), jobs=values.get("jobs", 0),
        workers=values.get("workers", 2), log=Path(values["log"]) if values.get("log") else None,
        **{name: values.get(name, False) for name in ("force", "retry", "strict", "dry_run", "keep_going")})
    output.check_apart(inputs)
    Summary().exceeds(output.allow_errors)  # a bad --allow-errors is told before the work, not after it
    with report:
        summary = run(Call(settings, inputs, output, stop, report, values)) or Summary()
    if summary.exceeds(output.allow_errors):
        report.tell(f"wsss {stage}: {summary.errors} of {summary.items} images were refused; see wsss info, "
                    "mend them and use --retry, or --allow-errors", always=True)
        return BadData.code
    return 0


def _take_recipe(values: dict[str, Any], config: type | Variants, stage: str) -> bool:
    """Fill in what the recipe says and the command line does not; False for a recipe that says nothing to the stage."""
    if not values.get("config_file"):
        return True
    from wsss_cli.recipe import section
    found = section(values["config_file"], stage, set(options.config_options(config)))
    for name, value in found.items():
        if values["ctx"].get_parameter_source(name).name in ("DEFAULT", "DEFAULT_MAP"):
            values[name] = value
    return bool(found)


def _named(named: tuple[Named, ...], values: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the further inputs, None for one that was left out. Raises UsageError for one that is empty."""
    for one in named:
        if values[one.name] is not None and not values[one.name].strip():
            raise UsageError(f"{options.option_name(one.name)} is empty", f"give {one.metavar}, or leave it out")
    return {one.name: values[one.name] for one in named}


def _paths(given: list[str], null: bool) -> LivePaths | list[str]:
    if given and given != ["-"]:
        return given
    if given or _stdin_has_paths():
        return LivePaths(null=null)
    return []


def _stdin_has_paths() -> bool:
    import stat
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _guarded(stage: str, values: Mapping[str, Any], action: Callable[[], int]) -> None:
    """Run `action`, and turn every exception into one line on standard error and an exit code."""
    code = 0
    try:
        code = action()
        sys.stdout.flush()
    except typer.Exit as ended:
        code = ended.exit_code
    except BrokenPipeError:
        # The reader of standard output went away; nothing may be flushed into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = BROKEN_PIPE
    except WsssError as error:
        code = _answer(stage, error, values)
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        code = _answer(stage, _os_answer(error), values)
    except Exception as error:
        fault = WsssError(f"internal error ({type(error).__name__}: {error})",
                          "this is a fault of wsss: --debug shows where")
        code = _answer(stage, refused_memory(error, _with_less(values)) or fault, values)
    raise typer.Exit(code)


def _with_less(values: Mapping[str, Any]) -> str:
    """Return what to do where memory ran out. The size of a batch is a setting: with another one nothing goes on."""
    jobs = ", or with a smaller -j" if "jobs" in values else ""
    settings = {"batch_size": "--batch-size", "crop_size": "--crop-size"}
    sizes = [option for name, option in settings.items() if name in values]
    anew = f"; with a smaller {' or '.join(sizes)} it begins anew" if sizes else ""
    return f"run the same command where there is more memory{jobs}{anew}"


def _os_answer(error: OSError) -> WsssError:
    if isinstance(error, FileNotFoundError):
        return MissingInput("is not there", where=str(error.filename))
    if isinstance(error, (PermissionError, IsADirectoryError)):
        return BadData(error.strerror or str(error), where=str(error.filename))
    return refused_write(error, error.filename or "")


def _answer(stage: str, error: WsssError, values: Mapping[str, Any]) -> int:
    if values.get("debug"):
        traceback.print_exc()
    print(f"wsss {stage}: {error}", file=sys.stderr)
    return error.code


def need_paths(call: Call, what: str = "INPUT") -> list[str]:
    """Return the arguments as a list; UsageError when there are none."""
    paths = list(call.inputs.paths)
    if not paths:
        raise UsageError(f"{what} is missing", "see --help")
    return paths
