"""`check`: every damaged byte of a shard, found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from stages.errors import WsssError
from stages.flow.execution import Report
from stages.nets.files import read_net
from stages.shards import Shard, check_shard, expand, missing_parts


def check(paths: Iterable[str], report: Report) -> Iterator[tuple[Path, list[WsssError]]]:
    """Yield (path, faults) of every file; a net is checked against the sha256 of its tensors."""
    for given in paths:
        files = [Path(given)] if given.endswith(".safetensors") else expand(given)
        for file in files:
            yield file, _faults(file)
        if len(files) > 1:
            holes = missing_parts([Shard(file).part for file in files], Shard(files[0]).parts)
            if holes:
                report.tell(f"{given}: the run lacks part {holes}")


def _faults(file: Path) -> list[WsssError]:
    if file.suffix != ".safetensors":
        return list(check_shard(file))
    try:
        read_net(file)
    except WsssError as error:
        return [error]
    return []
