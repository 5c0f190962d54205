"""Run at the start of every Python process with this folder on its path, to watch workers like their parent."""

import json
import os
import sys
from pathlib import Path

if "CRASH_PLAN" in os.environ:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from faults import Plan, watch_process

    sys.path.pop(0)
    watch_process(Plan(**json.loads(os.environ["CRASH_PLAN"])))
