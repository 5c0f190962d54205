"""The command line: the stages in the order of the work."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stages import STAGES, VERSION
from stages.errors import refused_write
from wsss_cli.command import BROKEN_PIPE, add


class _Stages(TyperGroup):
    """The stages in the order of the work; what the parser refuses is told in one line, as everything else is."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, complete_var: str | None = None,
             standalone_mode: bool = True, windows_expand_args: bool = True, **extra: Any) -> Any:
        """Run the command line, and end the process unless `standalone_mode` is off."""
        try:
            ended = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
            sys.stdout.flush()
        except OSError as error:  # of a page of help, on a full disk: commands answer for themselves
            ended = _unwritten(error)
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            ended = _refused(error)
        if standalone_mode:
            sys.exit(ended if isinstance(ended, int) else 0)
        return ended

    def list_commands(self, ctx: object) -> list[str]:
        """Return the names in the order of the table of stages."""
        return [stage.name for stage in STAGES]


def _unwritten(error: OSError) -> int:
    """Answer where standard output can't be written to, into which nothing may be flushed at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return BROKEN_PIPE
    answer = refused_write(error, "standard output")
    print(f"wsss: {answer}", file=sys.stderr)
    return answer.code


def _refused(error: Any) -> int:
    """Tell what the parser refuses; it has a page of help to tell where nothing was given."""
    told = error.format_message()
    if "\n" in told:
        error.show()
    else:
        command = error.ctx.command_path if getattr(error, "ctx", None) else "wsss"
        print(f"{command}: {told[:1].lower()}{told[1:].rstrip('.')}; see {command} --help", file=sys.stderr)
    return int(error.exit_code)


app = typer.Typer(name="wsss", cls=_Stages, no_args_is_help=True, rich_markup_mode=None, add_completion=False,
                  pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"wsss {VERSION}")
        raise typer.Exit


@app.callback()
def wsss(version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True,
                                               help="Show the version.")] = False) -> None:
    """Image tags or captions to pixel masks and trained segmentation networks.

    Stages read and write HDF5 shards and print the paths that they have finished, so they pipe:

    \b
        wsss index voc VOCdevkit/VOC2012 --split train -o train.h5
        wsss train-cls cam train.h5 --weights IMAGENET1K_V1 -o cam.safetensors
        wsss cams cnn train.h5 --net cam.safetensors -o cams | wsss refine crf -o crf | wsss pseudo -o masks
        wsss train-seg train.h5 --masks masks --weights cam.safetensors -o seg.safetensors
        wsss segment net val.h5 --net seg.safetensors -o val | wsss eval

    Exit codes: 0 done or up to date; 2 usage; 65 bad data or refused images; 66 input missing; 69 weights, device
    or package unavailable; 70 our fault; 73 output exists with other settings; 74 I/O error, work kept;
    75 stopped, run again; 130 second Ctrl-C; 141 reader of standard output went away.
    """


for _stage in STAGES:
    _module = importlib.import_module(f"wsss_cli.{_stage.folder}")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_stage.name)
    else:
        add(app, _stage.name, stage=_stage.name, run=_module.run, config=_module.CONFIG, example=_module.EXAMPLE,
            text=_module.TEXT, inputs=_module.INPUTS, named=getattr(_module, "NAMED", ()), extra=_module.EXTRA)
