"""`wsss` and `python -m wsss_cli` (which torchrun needs)."""

from __future__ import annotations

from wsss_cli.app import app


def main() -> None:
    """Run the command line."""
    app(prog_name="wsss")


if __name__ == "__main__":
    main()
