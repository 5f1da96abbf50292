"""Training: the order of samples, the batches, the loop that a Ray Train worker runs, its checkpoints."""
