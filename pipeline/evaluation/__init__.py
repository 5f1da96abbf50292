"""Evaluation: benchmarks as a table, scorers, and the attention of a trained student on their questions."""
