"""The control plane: Prefect flows and the command line. Talks to Ray through its Jobs API only."""
