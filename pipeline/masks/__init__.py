"""Mask generation: queries, shards, the teachers' pipeline, gates and the packed table of cells."""
