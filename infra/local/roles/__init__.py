"""The processes of the local stack, one file each, and their table."""
