"""Prometheus' configuration: it reads the metrics of every Ray node, and asks its users for the stack's secret."""

import re
from pathlib import Path

import bcrypt
import yaml

USER = "agevlm"
"""User name for Prometheus' and Grafana's pages; the password is the secret."""
SCRAPE_SECONDS = 5
"""Between two readings. A step of the miniature recipe takes seconds, and would be missed at the usual minute."""
HASH_ROUNDS = 4
"""Logarithm of bcrypt's rounds, the smallest: the secret has 256 random bits, so no slow hash has to protect it."""
RETENTION_TIME, RETENTION_SIZE = "15d", "512MB"
"""Older samples are deleted, and the oldest when there are more bytes."""
GO = {"GOMEMLIMIT": "96MiB", "GOGC": "50", "GOMAXPROCS": "1"}
"""Go's settings: it collects garbage early, so that an idle Prometheus stays small. The limit is soft: queries get the
memory that they need."""


def configuration(discovery: Path) -> str:
    """The text of prometheus.yml.

    discovery: file in which Ray lists the addresses of its metrics; it need not exist yet. Prometheus reads it again
    when it changes, and every few seconds.
    """
    ray = {
        "job_name": "ray",
        "file_sd_configs": [{"files": [_literal(str(discovery))], "refresh_interval": f"{SCRAPE_SECONDS}s"}],
    }
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "scrape_timeout": f"{SCRAPE_SECONDS}s"},
            "scrape_configs": [ray],
        },
        sort_keys=False,
    )


def web_configuration(secret: str) -> str:
    """The text of the file that makes Prometheus ask for USER and this secret. It holds a hash of the secret only."""
    hashed = bcrypt.hashpw(secret.encode(), bcrypt.gensalt(HASH_ROUNDS)).decode("ascii")
    return yaml.safe_dump({"basic_auth_users": {USER: hashed}})


def command(program: str, port: int, config: Path, web_config: Path, data: Path) -> list[str]:
    """The command of a Prometheus on the loopback interface that keeps little."""
    return [
        program,
        f"--config.file={config}",
        f"--web.config.file={web_config}",
        f"--web.listen-address=127.0.0.1:{port}",
        rf"--web.cors.origin=http://(127\.0\.0\.1|localhost):{port}",
        f"--storage.tsdb.path={data}",
        f"--storage.tsdb.retention.time={RETENTION_TIME}",
        f"--storage.tsdb.retention.size={RETENTION_SIZE}",
        "--query.max-concurrency=4",
        "--log.level=warn",
    ]


def _literal(path: str) -> str:
    """A path as a pattern that matches only itself: Prometheus takes the name for a pattern."""
    return re.sub(r"([\[\]?\\])", r"\\\1", path)
