"""`wsss info`."""

from __future__ import annotations

import json
import sys
from typing import Any

from stages.flow.execution import Summary
from stages.info.config import InfoConfig
from wsss_cli import options
from wsss_cli.command import Call, require_paths
from wsss_cli.tables import print_table

CONFIG = InfoConfig
EXAMPLE = "wsss info cams/cams-00000-of-00003.h5"
SUMMARY = "Show what a shard or network file holds and how it was made."
DESCRIPTION = ("Reads a shard of any kind (index, cams, masks, ...) or a network file (net). Prints its contents, the "
               "images that failed, and its provenance: aligned text on a terminal, TSV otherwise, or everything as "
               "JSON.")
OPTION_GROUPS = (options.JSON,)
ARGUMENT = "FILE..."


def run(call: Call) -> Summary:
    """Call the stage and print what it returns."""
    from stages.info.stage import describe_files
    descriptions = [description for path in require_paths(call, "FILE")
                    for description in describe_files(path, call.stop)]
    if call.values["json"]:
        json.dump(descriptions, sys.stdout, indent=1, ensure_ascii=False)
        print()
        return Summary()
    print_table([("path", "key", "value"), *(row for description in descriptions for row in _build_rows(description))])
    return Summary()


def _build_rows(description: dict[str, Any]) -> list[tuple[str, str, str]]:
    path = description["path"]
    rows = [(path, key, _format_value(value)) for key, value in description.items()
            if key not in ("path", "clusters", "provenance", "summary")]
    rows += [(path, f"summary {name}", _format_value(value)) for name, value in description.get("summary", {}).items()]
    rows += [(path, f"clusters of {name}", _format_value(value))
             for name, value in description.get("clusters", {}).items()]
    for entry in description.get("provenance", []):
        name = " ".join(filter(None, (entry["stage"], entry.get("method"))))
        rows.append((path, name, _format_value(entry["config"])))
    return rows


def _format_value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_format_value(element)}" for key, element in value.items())
    if isinstance(value, list):
        shown = [str(element) for element in value[:8]]
        return ", ".join([*shown, "..."] if len(value) > len(shown) else shown)
    return str(value)
