"""Format the times of files."""

from __future__ import annotations

import time
from pathlib import Path


def format_file_time(path: Path) -> str:
    """Return when a file was last changed, in local time with its offset, as the logs write times."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(path.stat().st_mtime))
