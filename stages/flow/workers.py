"""What every worker process does first."""

from __future__ import annotations

import ctypes
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
