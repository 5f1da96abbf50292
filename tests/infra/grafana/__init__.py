"""Tests of Grafana's provisioning and dashboard."""
