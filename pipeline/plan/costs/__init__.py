"""The costs of a plan before it runs: samples, tokens, FLOPs, memory, hours and storage, each with its arithmetic."""
