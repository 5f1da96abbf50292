"""Immutable, versioned, checksummed artifacts: the only way in which steps pass data to each other."""
