"""Training: the order of samples, the batches, and the loop that a Ray Train worker runs."""
