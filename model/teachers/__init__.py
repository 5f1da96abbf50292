"""The teachers that make masks: Florence-2 finds regions, SAM refines them. Plain PyTorch, no Ray."""
