"""Calls the stages that print something, or whose function differs from that of other stages.

Each adapter takes a Call and returns the summary and the value that the command prints as JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.errors import BadData, UsageError
from stages.flow.execution import Inputs, Output, Stop, Summary, check_json_path, check_table_path
from wsss_api.reports import CollectingReport

Answer = tuple[Summary, Any]


@dataclass(frozen=True)
class Call:
    """What a function passes to its stage. `extra` are arguments that only one command has."""

    method: str
    config: Any
    inputs: Inputs
    output: Output
    stop: Stop
    report: CollectingReport
    extra: dict[str, Any]

    def require_paths(self) -> list[str]:
        """Return the positional arguments. Raises UsageError if there are none."""
        paths = list(self.inputs.paths)
        if not paths:
            raise UsageError("no input was given", "Pass paths, or the result of another command")
        return paths


def index_images(call: Call) -> Answer:
    """Index a data set; the value is the summary of the index."""
    from stages.index.stage import run
    path = call.extra.get("summary_json")
    if path:
        check_json_path(path, "summary_json")
    summary = run(call.method, call.config, call.inputs, call.output, stop=call.stop, report=call.report,
                  summary_path=Path(path) if path else None)
    return summary, summary.contents


def count_classes(call: Call) -> Answer:
    """Count which classes appear together."""
    from stages.cooc.stage import run, summarise_shard
    summary = run(call.config, call.inputs, call.output, stop=call.stop, report=call.report)
    if call.output.dry_run or not call.output.path.exists():  # a task that is done before the others
        return summary, None
    call.report.print_path(call.output.path)
    return summary, summarise_shard(call.output.path)


def train_csd(call: Call) -> Answer:
    """Train CSD, or draw training pairs with `preview`."""
    from stages.train_cls.stage import preview, run
    if call.extra.get("preview"):
        return preview(call.config, call.inputs, call.output, call.extra["preview"], report=call.report), None
    return run("csd", call.config, call.inputs, call.output, stop=call.stop, report=call.report), None


def rank_prompts(call: Call) -> Answer:
    """Rank prompt templates."""
    from stages.prompts.stage import rank_templates
    result = rank_templates(call.config, replace(call.inputs, paths=call.require_paths()), stop=call.stop,
                            report=call.report)
    if result["refused"]:
        raise BadData(f"{result['refused']} images could not be read and were skipped; {result['images']} were read",
                      "Repair them, or make an index without them")
    return Summary(), result


def evaluate_run(call: Call) -> Answer:
    """Score a run."""
    from stages.eval.stage import describe_plan, evaluate, save_result
    path = None if call.output.is_left_out else call.output.path
    if path is not None:
        check_table_path(path)
    inputs = replace(call.inputs, paths=call.require_paths())
    if call.output.dry_run:
        call.report.info(f"Would {describe_plan(inputs)}.")
        return Summary(), None
    result = evaluate(call.config, inputs, call.output, stop=call.stop, report=call.report)
    if path is not None and result is not None:
        save_result(result, path)
        call.report.print_path(path)
    return Summary(), result


def describe(call: Call) -> Answer:
    """Describe files."""
    from stages.info.stage import describe_files
    return Summary(), [description for path in call.require_paths() for description in describe_files(path, call.stop)]


def explain(call: Call) -> Answer:
    """Explain the numbers of files; the value is a list of sentences."""
    from stages.explain.stage import explain_paths
    return Summary(), explain_paths(call.require_paths(), call.stop)


def describe_logs(call: Call) -> Answer:
    """Describe runs and trainings, or draw the curves of trainings; the value is a list of descriptions."""
    from stages.log.stage import describe, draw_curves
    if call.config.follow:
        raise UsageError("follow=True is for the command line", "Call wsss.log again when you want to know more")
    descriptions = describe(call.require_paths(), call.report)
    if not call.output.is_left_out:
        draw_curves(descriptions, call.output, call.report)
    return Summary(), descriptions


def check_files(call: Call) -> Answer:
    """Check files; the value is {path: verdict}. Raises the first fault if something is damaged or missing."""
    from stages.check.stage import check
    results = list(check(call.require_paths(), call.report, stop=call.stop, repair=bool(call.extra.get("repair")),
                         dry_run=call.output.dry_run))
    faults = [fault for result in results for fault in result.faults]
    for fault in faults[1:]:
        call.report.info(str(fault))
    if faults:
        raise faults[0]
    return Summary(), {str(result.path): result.verdict for result in results}


def draw(call: Call) -> Answer:
    """Draw pictures; the value is the text of a drawing for the terminal."""
    from stages.show.stage import run, run_captions
    draw_pictures = run_captions if call.inputs.named["net"] else run
    return Summary(), draw_pictures(call.config, call.require_paths(), call.inputs, call.output, report=call.report)


def write_report(call: Call) -> Answer:
    """Write the page of a report."""
    from stages.report.stage import run
    return run(call.config, call.require_paths(), call.inputs, call.output, stop=call.stop, report=call.report), None


def install_nltk(call: Call) -> Answer:
    """Install NLTK's tagger."""
    from stages.setup.stage import run_nltk
    output = replace(call.output, path=Path()) if call.output.is_left_out else call.output
    return run_nltk(call.inputs.require("archive"), output, call.report), None


ADAPTERS: dict[str, Callable[[Call], Answer]] = {adapter.__name__: adapter for adapter in (
    index_images, count_classes, train_csd, rank_prompts, evaluate_run, describe, describe_logs, explain, check_files,
    draw, write_report, install_nltk)}
