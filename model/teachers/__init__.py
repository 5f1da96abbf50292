"""The teachers of masks: Florence-2 says where, SAM says exactly where. Plain PyTorch, no Ray."""
