"""Tests of AGE-VLM."""
