"""Waiting for processes and files in tests, without depending on how fast the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

# Seconds after which a process counts as hanging. It is far above what any test needs (the slowest takes 20 s alone),
# so that a busy machine makes tests slower but never makes them fail.
PATIENCE = 600.0


def wait_until(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> bool:
    """Wait until `condition()` holds, or `process` has ended; return whether the condition holds.

    Raises TimeoutError after `PATIENCE` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process is not None and process.poll() is not None:
            return condition()
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing happened within {PATIENCE:.0f} s")
        time.sleep(0.002)
    return True
