"""Tests of `pipeline.sources.images`."""
