"""Affinities between neighbouring cells, learnt from class activation maps."""
