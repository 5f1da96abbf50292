"""Evaluation: the table of benchmarks, their scores, and the attention of a trained student on their questions."""
