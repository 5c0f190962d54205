"""Read by every Python that starts with this folder on its path: a worker process is watched like its parent."""

import json
import os
import sys
from pathlib import Path

if "CRASH_PLAN" in os.environ:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from faults import Plan, watched

    sys.path.pop(0)
    watched(Plan(**json.loads(os.environ["CRASH_PLAN"])))
