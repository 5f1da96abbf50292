"""Metrics, warnings, and the programs that show them while a stage trains."""
