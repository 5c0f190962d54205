"""What every worker process does first, and what is done when one of them has died."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

from stages.flow.execution import Stop


def tied_to_parent(parent: int) -> None:
    """Leave signals to the process `parent`, and die with it."""
    for number in Stop.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # Else a killed parent's children would go on, and hold the locks of their parts.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(75)


def end_workers() -> None:
    """Kill the workers of this process, of which one has died.

    They don't hear the SIGTERM of their pool. One that died while it waited for work has kept the lock of the queue,
    so the others, and the pool with them, would wait for ever.
    """
    for process in multiprocessing.active_children():
        process.kill()
