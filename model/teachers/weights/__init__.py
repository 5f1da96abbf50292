"""Recognises a file of weights by its header: no torch, no unpickling, and no tensor is read."""
