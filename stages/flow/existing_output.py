"""Finds an existing output that is up to date, so that a command can skip it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.errors import CannotCreate, WsssError
from stages.flow.execution import Output
from stages.shards import Shard, describe_differences


def find_finished_shard(path: Path, request: dict[str, Any], output: Output) -> Shard | None:
    """Return the shard at `path` if it matches `request`; None if it has to be made.

    Raises CannotCreate if the file has different settings (listing them) or is no shard, unless --force is given.
    """
    if output.force or not path.exists():
        return None
    try:
        shard = Shard(path)
        changed = describe_differences(shard.request, request)
    except WsssError as error:
        raise CannotCreate(f"already exists and {error.message}",
                           "Use --force to replace it, or choose another --output", where=str(path)) from None
    if changed:
        raise CannotCreate(f"already exists with different settings ({changed})",
                           "Use the same settings, --force to replace it, or choose another --output",
                           where=str(path))
    return shard
