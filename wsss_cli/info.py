"""`wsss info`."""

from __future__ import annotations

import json
import sys
from typing import Any

from stages.flow.execution import Summary
from stages.info.config import InfoConfig
from wsss_cli import options
from wsss_cli.command import Call, need_paths
from wsss_cli.tables import print_rows

CONFIG = InfoConfig
EXAMPLE = "wsss info cams/cams-00000-of-00003.h5"
TEXT = ("What a file holds and how it was made. Reads any shard (index, cams, masks, ...) or net; of clusters "
        "it tells how many each class has. Prints a table: "
        "text on a terminal, TSV otherwise, or JSON with everything.")
EXTRA = (options.JSON,)
INPUTS = "FILE..."


def run(call: Call) -> Summary:
    """Call the stage and print what it says."""
    from stages.info.stage import describe
    described = [one for path in need_paths(call, "FILE") for one in describe(path, call.stop)]
    if call.values["json"]:
        json.dump(described, sys.stdout, indent=1, ensure_ascii=False)
        print()
        return Summary()
    print_rows([("path", "key", "value"), *(row for one in described for row in _rows(one))])
    return Summary()


def _rows(described: dict[str, Any]) -> list[tuple[str, str, str]]:
    path = described["path"]
    rows = [(path, key, _short(value)) for key, value in described.items()
            if key not in ("path", "clusters", "provenance")]
    rows += [(path, f"clusters of {name}", _short(one)) for name, one in described.get("clusters", {}).items()]
    for entry in described.get("provenance", []):
        name = " ".join(filter(None, (entry["stage"], entry.get("method"))))
        rows.append((path, name, _short(entry["config"])))
    return rows


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_short(one)}" for key, one in value.items())
    if isinstance(value, list):
        shown = [str(one) for one in value[:8]]
        return ", ".join([*shown, "..."] if len(value) > len(shown) else shown)
    return str(value)
