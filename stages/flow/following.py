"""Follow a training or a run by looking at its files again and again, which also works on a shared file system."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from stages.errors import BadData, MissingInput, Stopped, WsssError
from stages.flow.execution import Report, Stop

# Looks at the files without a change after which a command that ended on this machine counts as stopped: between the
# parts of a run there are moments without a locked file.
_NUM_LOOKS_UNTIL_STOPPED = 5
_LONGEST_SLEEP = 0.2  # seconds until a signal is noticed


def follow(describe: Callable[[], dict[str, Any]], interval: float, stop: Stop, report: Report) -> Iterator[
        dict[str, Any]]:
    """Yield each epoch or finished part once, until the training or run is finished.

    `describe` returns the description of now. Ends with a message if the command that made it stopped before its end.
    Raises Stopped at a signal, and what `describe` raises at the first look.
    """
    seen: set[Any] = set()
    was_running, has_told, num_quiet_looks, previous = False, False, 0, None
    description = describe()
    while True:
        items = list_items(description)
        seen &= {key for key, _ in items}  # a log that was replaced by that of another training starts anew
        for key, item in items:
            if key not in seen:
                seen.add(key)
                yield item
        state = description["state"]
        if state == "finished":
            return
        snapshot = [items, description.get("step"), description.get("images")]
        num_quiet_looks = num_quiet_looks + 1 if snapshot == previous and state != "running" else 0
        was_running, previous = was_running or state == "running", snapshot
        if num_quiet_looks >= _NUM_LOOKS_UNTIL_STOPPED:
            if was_running:
                report.info(f"{description['path']}: the command stopped before its end; run it again to resume.")
                return
            if not has_told:
                report.info(f"{description['path']}: no process of this machine is working on it; waiting in case "
                            "another machine is (Ctrl-C ends this).")
                has_told = True
        _sleep(interval, stop)
        description = _describe_again(describe, description)


def _describe_again(describe: Callable[[], dict[str, Any]], previous: dict[str, Any]) -> dict[str, Any]:
    """Return the new description; the previous one while a file is being replaced."""
    try:
        return describe()
    except (MissingInput, BadData, FileNotFoundError):
        return {**previous, "state": "unknown"}


def list_items(description: dict[str, Any]) -> list[tuple[Any, dict[str, Any]]]:
    """Return the epochs of a training or the finished parts of a run, each with a key that stays the same."""
    if description["type"] == "run":
        return [(part["file"], part) for part in description["parts"] if part["state"] == "done"]
    return [((line["step"], line["loss"]), line) for line in description["lines"]]


def _sleep(seconds: float, stop: Stop) -> None:
    """Wait, and raise Stopped soon after a signal."""
    end = time.monotonic() + seconds
    while not stop.requested:
        remaining = end - time.monotonic()
        if remaining <= 0:
            return
        time.sleep(min(remaining, _LONGEST_SLEEP))
    raise _build_stopped_error()


def _build_stopped_error() -> WsssError:
    return Stopped("stopped by a signal", "Run the same command again to follow on")
