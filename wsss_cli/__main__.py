"""`wsss` and `python -m wsss_cli` (which torchrun needs)."""

from __future__ import annotations

import os

from wsss_cli.app import app


def main() -> None:
    """Run the command line."""
    # Idle OpenMP threads sleep instead of spinning: where the cores are shared, training a small net took a
    # quarter of the processor time (30 s instead of 113 s). Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(prog_name="wsss")


if __name__ == "__main__":
    main()
