"""The command line: its commands are the stages, in the order of the work."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stages import STAGES, VERSION, Stage
from stages.errors import explain_write_error
from wsss_cli.command import BROKEN_PIPE_CODE, CONTEXT_SETTINGS, add_command
from wsss_cli.guarded_streams import print_above_progress
from wsss_cli.help_pages import Command, Group

HELP = "help"


class _StageCommands(MutableMapping[str, Any]):
    """The commands by name: those of a stage are built when they are first used.

    Building all of them takes 0.3 s, more than many commands need for their work.
    """

    def __init__(self, commands: MutableMapping[str, Any]) -> None:
        self._commands = commands
        self._stages = {stage.name: stage for stage in STAGES}

    def __getitem__(self, name: str) -> Any:
        if name in self._stages and name not in self._commands:
            self._commands[name] = _build_stage_command(self._stages[name])
        return self._commands[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._stages, *self._commands)))

    def __len__(self) -> int:
        return len(self._stages.keys() | self._commands.keys())


class _CommandLine(Group):
    """All stages. An error of the parser takes one line, as every other error does."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _StageCommands(self.commands)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
             standalone_mode: bool = True, windows_expand_args: bool = True, **extra: Any) -> Any:
        """Run the command line, and end the process unless `standalone_mode` is off."""
        try:
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            sys.stdout.flush()
        except OSError as error:  # a page of help that can't be written; commands handle their own errors
            code = _print_write_error(error)
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            code = _print_usage_error(error)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code

    def list_commands(self, ctx: object) -> list[str]:
        """Return the names in the order of the table of stages."""
        return [*(stage.name for stage in STAGES), HELP]


def _print_write_error(error: OSError) -> int:
    """Report that standard output can't be written, and keep Python from flushing into it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE_CODE
    write_error = explain_write_error(error, "standard output")
    print(f"wsss: {write_error}", file=sys.stderr)
    return write_error.code


def _print_usage_error(error: Any) -> int:
    """Print an error of the parser in one line; where a command is missing, it is the page of help instead."""
    message = error.format_message()
    if "\n" in message:
        error.show()
    else:
        command = error.ctx.command_path if getattr(error, "ctx", None) else "wsss"
        sentence = f"{message[:1].lower()}{message[1:]}"
        end = "" if sentence.endswith((".", "?")) else "."
        print_above_progress(f"{command}: {sentence}{end} See `{command} --help`.")
    return int(error.exit_code)


app = typer.Typer(name="wsss", cls=_CommandLine, no_args_is_help=True, rich_markup_mode=None,
                  pretty_exceptions_enable=False, context_settings=CONTEXT_SETTINGS)


def _print_version(is_given: bool) -> None:
    if is_given:
        print(f"wsss {VERSION}")
        raise typer.Exit


@app.callback()
def wsss(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                               help="Show the version.")] = False) -> None:
    """Turn image tags or captions into pixel masks and trained segmentation networks.

    Each stage reads and writes HDF5 shards and prints the paths of finished files, so stages can be piped:

    \b
        wsss index voc VOCdevkit/VOC2012 --split train -o train.h5
        wsss train-cls cam train.h5 --weights IMAGENET1K_V1 -o cam.safetensors
        wsss cams cnn train.h5 --net cam.safetensors -o cams | wsss refine crf -o crf | wsss pseudo -o masks
        wsss train-seg train.h5 --masks masks --weights cam.safetensors -o seg.safetensors
        wsss segment net val.h5 --net seg.safetensors -o val | wsss eval

    A command that was interrupted resumes when it is run again; finished output is skipped.

    \b
    Exit codes:
       0  done, or already up to date
       2  invalid arguments
      65  invalid input data, or more images failed than --allow-errors permits
      66  an input does not exist
      69  weights, a device or a package is not available
      70  a bug in wsss
      73  the output exists with other settings, or cannot be created
      74  reading or writing failed, or memory ran out; finished work is kept
      75  stopped by a signal; run the same command again to resume
     130  stopped by a second Ctrl-C
     141  the reader of standard output went away
    """


_WORDS = typer.Argument(metavar="COMMAND...", help="A stage, or one of its methods: cams cnn.", show_default=False)


@app.command(HELP, cls=Command, context_settings=CONTEXT_SETTINGS, short_help="Show the help of a command.")
def show_help(ctx: typer.Context, words: Annotated[list[str] | None, _WORDS] = None) -> None:
    """Show the help of a command.

    \b
    Example:
        wsss help cams cnn
    """
    context: Any = ctx.parent
    for word in words or ():
        if not isinstance(context.command, TyperGroup):
            context.fail(f"No such command {word!r}: it has no commands of its own")
        _, command, _ = context.command.resolve_command(context, [word])
        context = type(context)(command, info_name=word, parent=context)
    print(context.get_help())


def _build_stage_command(stage: Stage) -> Any:
    """Return the command of a stage, or the group of its methods."""
    module = importlib.import_module(f"wsss_cli.{stage.folder}")
    if hasattr(module, "app"):
        return typer.main.get_group(module.app)
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    add_command(single, stage.name, stage=stage.name, run=module.run, config=module.CONFIG, example=module.EXAMPLE,
                summary=module.SUMMARY, description=module.DESCRIPTION, argument=module.ARGUMENT,
                named_inputs=getattr(module, "NAMED_INPUTS", ()), option_groups=module.OPTION_GROUPS)
    return typer.main.get_command(single)
