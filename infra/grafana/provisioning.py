"""Grafana's settings and provisioning: login by the stack's secret, Prometheus as data source, two dashboard folders.

Everybody must log in, Ray's page included: an anonymous viewer would let every account of this machine read all
metrics, through Grafana's proxy to Prometheus. Ray's page shows Grafana's charts in frames. Both are on 127.0.0.1, and
a browser counts all ports of a host as one site, so it sends the cookie of a login into these frames, and to no frame
of another site (`cookie_samesite = lax`).
"""

import configparser
import io
from pathlib import Path

import yaml

USER = "agevlm"
DASHBOARDS = Path(__file__).resolve().parent / "dashboards"
"""Folder with our dashboard."""
SOURCE_UID = "agevlm-prometheus"


def settings(port: int, folder: Path, secret_file: Path) -> str:
    """The text of grafana.ini: on the loopback interface, with all its files in `folder`, and no calls to the internet.

    The password of USER is the secret, which Grafana reads from its file when it makes its database.
    """
    ini = configparser.RawConfigParser()
    ini.read_dict(
        {
            "server": {
                "http_addr": "127.0.0.1",
                "http_port": str(port),
                "domain": "127.0.0.1",
                "root_url": f"http://127.0.0.1:{port}/",
            },
            "paths": {
                "data": str(folder / "data"),
                "logs": str(folder / "logs"),
                "plugins": str(folder / "plugins"),
                "provisioning": str(folder / "provisioning"),
            },
            "log": {"mode": "console", "level": "warn"},
            "security": {
                "admin_user": USER,
                "admin_password": f"$__file{{{secret_file}}}",
                "allow_embedding": "true",
                "cookie_samesite": "lax",
                "disable_gravatar": "true",
            },
            "auth": {"login_cookie_name": f"agevlm_grafana_{port}", "disable_login_form": "false"},
            "auth.anonymous": {"enabled": "false"},
            "auth.basic": {"enabled": "true"},
            "users": {"allow_sign_up": "false", "allow_org_create": "false"},
            "analytics": {
                "reporting_enabled": "false",
                "check_for_updates": "false",
                "check_for_plugin_updates": "false",
            },
            "news": {"news_feed_enabled": "false"},
            "snapshots": {"external_enabled": "false"},
            "unified_alerting": {"enabled": "false"},
        }
    )
    text = io.StringIO()
    ini.write(text)
    return text.getvalue()


def data_sources(name: str, url: str, user: str, secret: str) -> str:
    """The text of provisioning/datasources/prometheus.yml. It holds the secret: only its owner may read the file.

    name: the name by which Ray's dashboards find the data source.
    """
    source = {
        "name": name,
        "uid": SOURCE_UID,
        "type": "prometheus",
        "access": "proxy",
        "url": url,
        "isDefault": True,
        "editable": False,
        "basicAuth": True,
        "basicAuthUser": user,
        "secureJsonData": {"basicAuthPassword": secret.replace("$", "$$")},
        "jsonData": {"httpMethod": "POST", "timeInterval": "5s"},
    }
    return yaml.safe_dump({"apiVersion": 1, "datasources": [source]}, sort_keys=False)


def dashboard_providers(folders: dict[str, Path]) -> str:
    """The text of provisioning/dashboards/agevlm.yml. folders: title of a folder in Grafana -> folder with JSON."""
    providers = [
        {
            "name": title,
            "orgId": 1,
            "folder": title,
            "type": "file",
            "disableDeletion": True,
            "allowUiUpdates": False,
            "updateIntervalSeconds": 30,
            "options": {"path": str(path).replace("$", "$$")},
        }
        for title, path in folders.items()
    ]
    return yaml.safe_dump({"apiVersion": 1, "providers": providers}, sort_keys=False)


def home_path(program: Path) -> Path | None:
    """Grafana's own folder, which it needs to start; None if it is not beside the program nor where packages put it."""
    choices = (program.resolve().parent.parent, Path("/usr/share/grafana"), Path("/opt/homebrew/share/grafana"))
    return next((folder for folder in choices if (folder / "conf" / "defaults.ini").is_file()), None)
