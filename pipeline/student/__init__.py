"""A trained student: find it, ask it, export it with its model card."""
