"""The local stack: starts, checks and ends Prefect's server, Ray's head and a Prefect worker on this machine."""
