"""Share the fixtures of the tests of the command line: a tiny data set and its index."""

from cli.conftest import tiny_dataset, tiny_index

__all__ = ["tiny_dataset", "tiny_index"]
