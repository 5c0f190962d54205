"""`log`: shows how far runs and trainings are, what they logged, and the curves of trainings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.errors import MissingInput, UsageError, WsssError
from stages.flow.execution import Output, Report, Stop, check_picture_path
from stages.flow.following import follow
from stages.flow.run_progress import describe_run
from stages.flow.training_log import LOG_SUFFIX, read_log_lines
from stages.flow.training_progress import describe_training, is_training
from stages.log.config import LogConfig
from stages.log.text import build_table, format_description, format_line

_BRAILLE_AND_AXES = "\u2800\u2502"


def describe(paths: Sequence[str], report: Report) -> list[dict[str, Any]]:
    """Return one description per run or training, and report their notes. Raises MissingInput, BadData."""
    descriptions = [describe_path(path) for path in paths]
    for description in descriptions:
        for note in description["notes"]:
            report.debug(f"{description['path']}: {note}")
    return descriptions


def describe_path(path: str) -> dict[str, Any]:
    """Return the description of a run or a training. The log of a run stands for its folder."""
    if path.endswith(LOG_SUFFIX) and Path(path).is_file() and any("items" in line for line in
                                                                  read_log_lines(Path(path))):
        return {**describe_run(_find_run_of_log(Path(path))), "path": path}
    return describe_training(path) if is_training(path) else describe_run(path)


def _find_run_of_log(log: Path) -> str:
    shard = log.with_name(log.name.removesuffix(".log.jsonl") + ".h5")
    return str(shard if shard.exists() else log.parent)


def render_text(descriptions: Sequence[dict[str, Any]], config: LogConfig, columns: int) -> str:
    """Return the text of descriptions, and the curves of trainings, overlaid in one chart per quantity."""
    texts = [format_description(description, columns) for description in descriptions]
    logs = _collect_logs(descriptions)
    if logs:
        from stages.data.text_curves import render_text_charts
        from stages.flow.training_charts import build_training_charts
        texts.append(render_text_charts(build_training_charts(logs), columns, unicode=_has_unicode(config.graphics),
                                        colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")))
    return "\n\n".join(texts)


def _has_unicode(graphics: str) -> bool:
    """Return whether curves are drawn in braille: not on a console of Linux, whose fonts have none."""
    if graphics != "auto":
        return graphics == "unicode"
    try:
        _BRAILLE_AND_AXES.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return not (sys.stdout.isatty() and os.environ.get("TERM", "dumb") in ("dumb", "linux"))


def build_rows(descriptions: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return a table of epochs or parts. Raises UsageError for runs next to trainings."""
    if len({description["type"] for description in descriptions}) > 1:
        raise UsageError("a table holds the epochs of trainings or the parts of runs, but both were given",
                         "Use two commands, or --format json")
    return build_table(descriptions)


def draw_curves(descriptions: Sequence[dict[str, Any]], output: Output, report: Report) -> None:
    """Write the curves of trainings as a picture. Raises UsageError, MissingInput, CannotCreate, IoFailed."""
    check_picture_path(output.path)
    logs = _collect_logs(descriptions)
    if not logs:
        raise _build_no_curves_error(descriptions)
    if output.dry_run:
        report.info(f"Would draw the curves of {', '.join(logs)} to {output.path}.")
        return
    from stages.data.curve_plots import render_charts
    from stages.flow.picture_output import report_escapes, write_pictures
    from stages.flow.training_charts import build_training_charts
    report_escapes(logs, report)
    for path in write_pictures(output.path, [render_charts(build_training_charts(logs), heading=", ".join(logs))]):
        report.print_path(path)


def _build_no_curves_error(descriptions: Sequence[dict[str, Any]]) -> WsssError:
    trainings = [description for description in descriptions if description["type"] == "training"]
    if trainings:
        return MissingInput("no epoch of this training is logged next to it",
                            "If the training wrote its log elsewhere (--log), give that file",
                            where=trainings[0]["path"])
    return UsageError("-o writes the curves of trainings, but only runs were given", "Leave out -o, or give a network")


def _collect_logs(descriptions: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the log lines of trainings by a short name; by the path where two have the same name."""
    logs: dict[str, list[dict[str, Any]]] = {}
    for description in descriptions:
        if description["type"] == "training" and description["lines"]:
            name = Path(description["path"]).name.split(".")[0] or description["path"]
            logs[description["path"] if name in logs else name] = description["lines"]
    return logs


def follow_lines(path: str, config: LogConfig, stop: Stop, report: Report) -> Iterator[str]:
    """Yield one line of text per epoch or finished part until the training or run ends; see `follow`."""
    for item in follow(lambda: describe_path(path), config.interval, stop, report):
        yield format_line(item)
