"""Draws the steps that led to the runs: a graph from left to right, and a list with the commands."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from stages.report.provenance import Step

_SHOWN_CHARACTERS = 12
_NODE_SHARE = 0.8  # of the width of a column


def plot_steps(steps: Sequence[Step], outputs: Sequence[str]) -> str:
    """Return the graph of the steps and their list; `outputs` are the names of the runs of the report.

    The graph repeats what the list says, so it is hidden from screen readers.
    """
    items = "".join(_build_item(number, steps) for number in range(len(steps)))
    return f'{draw_graph(steps, outputs)}<ol class="steps">{items}</ol>'


def _build_item(number: int, steps: Sequence[Step]) -> str:
    step = steps[number]
    read = ", ".join(f'<a href="#step-{source + 1}">{escape(steps[source].output)}</a>' for source in step.sources)
    notes = "".join(f'<p class="hint">{escape(note)}</p>' for note in step.notes)
    digest = f' <span class="hint">sha256 {escape(step.digest[:_SHOWN_CHARACTERS])}…</span>' if step.digest else ""
    command = f'<pre tabindex="0"><code>{_mark_words(step.command)}</code></pre>' if step.command else ""
    return (f'<li id="step-{number + 1}"><p><b dir="auto">{escape(step.output)}</b>{digest}'
            f'{f" from {read}" if read else ""}</p>{command}{notes}</li>')


def _mark_words(command: str) -> str:
    """Return a command whose words, options too, are not broken at a hyphen if they fit on a line."""
    return " ".join(f'<span class="word">{escape(word)}</span>' for word in command.split(" "))


def compute_columns(steps: Sequence[Step]) -> list[int]:
    """Return the column of each step: one more than the last of the steps that it reads."""
    columns: list[int] = []
    for step in steps:
        columns.append(1 + max((columns[source] for source in step.sources), default=-1))
    return columns


def draw_graph(steps: Sequence[Step], outputs: Sequence[str]) -> str:
    """Return the steps as boxes in columns, with a line from each step to those that read it."""
    columns = compute_columns(steps)
    num_columns = max(columns, default=0) + 1
    rows = [columns[:position].count(column) for position, column in enumerate(columns)]
    num_rows = max(rows, default=0) + 1
    lines = "".join(f'<line x1="{(columns[source] + _NODE_SHARE) / num_columns:.4f}" '
                    f'y1="{(rows[source] + 0.5) / num_rows:.4f}" x2="{columns[number] / num_columns:.4f}" '
                    f'y2="{(rows[number] + 0.5) / num_rows:.4f}"/>'
                    for number, step in enumerate(steps) for source in step.sources)
    boxes = "".join(f'<div class="node{" is-run" if step.output in outputs else ""}" '
                    f'style="grid-column:{columns[number] + 1};grid-row:{rows[number] + 1}">'
                    f'<b>{escape(step.output)}</b><span>{escape(step.title)}</span></div>'
                    for number, step in enumerate(steps))
    return (f'<div class="graph" aria-hidden="true" style="--columns:{num_columns};--rows:{num_rows}">'
            f'<svg viewBox="0 0 1 1" preserveAspectRatio="none">{lines}</svg>{boxes}</div>')
