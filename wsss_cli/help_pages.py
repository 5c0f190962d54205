"""Lay out the pages of help: options in sections, the most used first, and whole sentences in lists of commands."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

from wsss_cli.option_values import convert_values_directly

INPUT_OUTPUT, METHOD, IMAGES, TRAINING, EXECUTION, GENERAL = SECTIONS = (
    "Input and output options", "Method options", "Image options", "Training options", "Execution options",
    "General options")

# Fields of Configs by section; those of a method itself are named nowhere.
_IMAGE_FIELDS = {
    "scales", "max_side", "flip", "stride", "grid_stride", "alignment", "window", "long_side", "short_side",
    "crop_size", "crop_area", "resize", "scale_range", "scale_per", "colour_jitter", "rand_augment", "erase", "mean",
    "std", "pad_place", "pad_label", "max_pixels", "apply_exif", "tags_only", "pack",
}
_TRAINING_FIELDS = {
    "epochs", "steps", "batch_size", "accumulate", "lr", "head_lr_factor", "bias_lr_factor", "optimizer", "momentum",
    "weight_decay", "decay", "schedule", "lr_floor", "warmup", "average", "freeze", "freeze_bn", "dropout", "drop_path",
    "adam_epsilon", "clip", "gradient_clip", "unfreeze_at", "save_every", "seed",
}
_EXECUTION_FIELDS = {"batch_size", "shard_size", "precision", "device", "threads"}
# Within a section these lead, in this order; all others follow in the order of their definition.
_MOST_USED = (
    "net", "clip", "weights", "masks", "cams", "words", "output", "names", "background", "tags", "scales", "crop_size",
    "epochs", "lr", "device", "jobs", "batch_size", "precision", "threads", "force", "dry_run", "retry", "allow_errors",
    "config_file", "quiet", "verbose", "debug", "help",
)


def find_section(field: str, *, trains: bool) -> str:
    """Return the section of help to which a field of a Config belongs; `trains` where the command trains a network."""
    if trains and field in _TRAINING_FIELDS:
        return TRAINING
    if field in _EXECUTION_FIELDS:
        return EXECUTION
    return IMAGES if field in _IMAGE_FIELDS else METHOD


class Command(TyperCommand):
    """A command whose help shows its options by section."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters and --help, whose values are converted without pydantic."""
        return convert_values_directly(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options of each section."""
        sections: dict[str, list[tuple[int, tuple[str, str]]]] = {name: [] for name in SECTIONS}
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                _write_argument(parameter, formatter)
                continue
            record = parameter.get_help_record(ctx)
            if record:
                rank = _MOST_USED.index(parameter.name) if parameter.name in _MOST_USED else len(_MOST_USED)
                section = getattr(parameter, "rich_help_panel", None) or GENERAL
                sections[section].append((rank, record))
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl([record for _, record in sorted(records, key=lambda ranked: ranked[0])])


def _write_argument(argument: Any, formatter: Any) -> None:
    if not argument.hidden:
        with formatter.section("Arguments"):
            formatter.write_dl([(argument.metavar, argument.help)])


class Group(TyperGroup):
    """A group of commands whose help shows the whole first sentence of each."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters and --help, whose values are converted without pydantic."""
        return convert_values_directly(super().get_params(ctx))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands and their summaries, none of which is cut."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.short_help or command.help or "") for name, command in commands
                if command is not None and not command.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
