"""The Ray session, parallel workers, and weights fetched from a hub."""
