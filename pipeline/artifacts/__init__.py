"""Immutable, versioned, checksummed artifacts: every hand-off between two steps is one of these."""
