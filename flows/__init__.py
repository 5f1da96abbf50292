"""The control plane: Prefect flows, the local stack and the command line. Talks to Ray through its Jobs API only."""
