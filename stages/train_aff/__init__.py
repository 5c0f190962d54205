"""Affinity networks for neighbouring cells, trained on class activation maps."""
