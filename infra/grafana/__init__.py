"""Grafana beside Prometheus: its settings, its data source and its dashboards."""
