"""Checkpoints of a stage that is being trained: taking, writing, keeping and reading them."""
