"""The monitor: one process that tells the outside how the host does."""
