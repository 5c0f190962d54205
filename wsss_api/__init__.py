"""The parts of `wsss`, the Python interface: one module per topic. Users import them from `wsss`."""
