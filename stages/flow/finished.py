"""Whether what a command is to make is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.errors import CannotCreate, WsssError
from stages.flow.execution import Output
from stages.shards import Shard, differences


def finished_shard(path: Path, request: dict[str, Any], output: Output) -> Shard | None:
    """Return the shard at `path`, which is the one that `request` asks for; None where it is to be made.

    Raises CannotCreate naming the keys that differ where it was made otherwise, or is no shard, but with --force.
    """
    if output.force or not path.exists():
        return None
    try:
        there = Shard(path)
        changed = differences(there.request, request)
    except WsssError as error:
        raise CannotCreate(f"exists, and {error.what}", "give another -o, or --force to replace it",
                           where=str(path)) from None
    if changed:
        raise CannotCreate(f"exists with other settings ({changed})",
                           "give those settings, another -o, or --force to replace it", where=str(path))
    return there
