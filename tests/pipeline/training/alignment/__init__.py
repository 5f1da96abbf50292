"""Tests of the proof of alignment."""
