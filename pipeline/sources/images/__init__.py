"""Images of raw data: found by a record's reference in folders and archives, and read in place."""
