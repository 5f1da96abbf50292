"""Benchmarks. `python -m tests.bench NAME [options]` runs tests/bench/NAME.py."""
