"""Data files that a method needs and the package does not include."""
