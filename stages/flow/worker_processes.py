"""Sets up worker processes, and kills them when one of them has died."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

from stages.flow.execution import Stop


def tie_to_parent(parent: int) -> None:
    """Ignore signals, which the process `parent` handles, and die with it."""
    for number in Stop.SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # Otherwise the children of a killed parent would go on and hold the locks of their parts.
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(75)


def kill_workers() -> None:
    """Kill the remaining workers of this process after one of them has died.

    They ignore the SIGTERM of their pool. A worker that died while it waited for work still holds the lock of the
    queue, so the others, and the pool with them, would wait for ever.
    """
    for worker in multiprocessing.active_children():
        worker.kill()
