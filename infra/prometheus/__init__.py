"""Prometheus beside Ray: its configuration."""
