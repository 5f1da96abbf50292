"""The data of a stage: the order of samples, reading a pack, and the tensors of a micro-batch."""
