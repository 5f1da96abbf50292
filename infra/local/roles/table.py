"""The table of roles."""

from infra.local.roles import grafana, prefect, prometheus, ray, worker
from infra.local.roles.role import Role

ROLES: dict[str, Role] = {
    role.name: role
    for role in (
        Role(
            name="prefect",
            title="Prefect server",
            start=prefect.start,
            ready=prefect.ready,
            ports=("prefect",),
            page="prefect",
            start_seconds=240.0,
            attempts=2,
        ),
        Role(
            name="ray",
            title="Ray head",
            start=ray.start,
            ready=ray.ready,
            ports=ray.PORTS,
            page="ray_dashboard",
            start_seconds=180.0,
            # Ray's raylet also gives up if its agents take more than 15 s to start, a constant in its code
            # (ray-project/ray#65983); that happens on a busy machine.
            attempts=5,
            grace=15.0,
            broken=ray.broken,
            reason=ray.reason,
        ),
        Role(
            name="prometheus",
            title="Prometheus",
            start=prometheus.start,
            ready=prometheus.ready,
            ports=(prometheus.PORT,),
            page=prometheus.PORT,
            start_seconds=60.0,
            wanted=prometheus.wanted,
            needed=False,
        ),
        Role(
            name="grafana",
            title="Grafana",
            start=grafana.start,
            ready=grafana.ready,
            ports=(grafana.PORT,),
            page=grafana.PORT,
            start_seconds=120.0,
            wanted=grafana.wanted,
            needed=False,
        ),
        Role(name="worker", title="Prefect worker", start=worker.start, ready=worker.ready, grace=15.0),
    )
}
"""Name -> role, in the order in which they start."""

ENDING = ("worker", "ray", "grafana", "prometheus", "prefect")
"""The order in which they end: a flow reports to the server and stops its Ray jobs."""
