"""Making training rows: the chat template, tokens and their characters, and the seeded random order. No torch."""
