"""The miniature world: rendered scenes, texts about them, and tiny models of the real classes trained on them."""
