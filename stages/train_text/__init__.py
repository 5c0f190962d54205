"""Segmentation networks from images and their captions."""
