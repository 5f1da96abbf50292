"""The `agevlm` command: its commands, and everything that they show on a terminal."""
