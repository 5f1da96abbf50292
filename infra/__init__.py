"""Deployment of the project. Imports nothing of flows, pipeline and model."""
