"""Tests of Prometheus' configuration."""
