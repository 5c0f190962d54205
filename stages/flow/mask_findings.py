"""Repeat what an index recorded about its ground-truth masks when they are used."""

from __future__ import annotations

from collections.abc import Iterable

from stages.data.index_summary import read_summary
from stages.data.mask_counts import format_contradictions
from stages.flow.execution import Report
from stages.shards import Shard


def report_contradictions(indexes: Iterable[Shard], report: Report) -> None:
    """Report in one line how many masks contradict their tags, if the parts of an index recorded any."""
    summaries = [read_summary(index) or {} for index in indexes]
    recorded = [summary["contradictions"] for summary in summaries if summary.get("contradictions")]
    num_wrong = sum(contradictions["images"] for contradictions in recorded)
    if num_wrong:
        example = next(contradictions["example"] for contradictions in recorded if contradictions["images"])
        report.info(format_contradictions(num_wrong, sum(entry["compared"] for entry in recorded), example))
