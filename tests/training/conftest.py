"""The tiny index of the command line's tests."""

from cli.conftest import tiny_folder, tiny_index

__all__ = ["tiny_folder", "tiny_index"]
