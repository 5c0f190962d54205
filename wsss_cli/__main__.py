"""`wsss` and `python -m wsss_cli` (which torchrun needs)."""

from __future__ import annotations

import gc
import io
import os
import sys

from wsss_cli.app import app

_RARE_COLLECTION = 100_000  # objects


def main() -> None:
    """Run the command line."""
    # What is imported stays; looking for garbage in it took 5 to 8 % of a short command. `Call.begin_work` ends this.
    gc.set_threshold(_RARE_COLLECTION)
    _open_standard_streams()
    # Idle OpenMP threads sleep instead of spinning: where the cores are shared, training a small net took a
    # quarter of the processor time (30 s instead of 113 s). Read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    app(prog_name="wsss")


def _open_standard_streams() -> None:
    """See to it that there are three standard streams, and that paths leave by the second as they came.

    A stream that the caller has closed (`>&-`) would be None; what is opened next would get its number, and with it
    whatever a library prints.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w" if number else "r", errors="backslashreplace", closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # a name of a file need not be UTF-8


if __name__ == "__main__":
    main()
