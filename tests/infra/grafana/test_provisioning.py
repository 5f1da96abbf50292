"""Grafana's files against the fields that its documentation names: a field that it does not know is a mistake."""

import configparser
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from infra.grafana.provisioning import dashboard_providers, data_sources, home_path, settings


class Strict(BaseModel):
    """Base: no other fields, no conversions."""

    model_config = ConfigDict(extra="forbid", strict=True)


class DataSource(Strict):
    """A data source of provisioning format 1."""

    name: str = Field(min_length=1)
    type: Literal["prometheus"]
    access: Literal["proxy", "direct"]
    uid: str = Field(max_length=40, pattern=r"^[a-zA-Z0-9_-]+$")
    orgId: int = 1
    url: str = Field(pattern=r"^http://127\.0\.0\.1:\d+$")
    user: str = ""
    database: str = ""
    basicAuth: bool = False
    basicAuthUser: str = ""
    withCredentials: bool = False
    isDefault: bool = False
    jsonData: dict[str, Any] = {}
    secureJsonData: dict[Literal["basicAuthPassword", "tlsCACert", "httpHeaderValue1"], str] = {}
    version: int = 1
    editable: bool = False


class DataSources(Strict):
    """provisioning/datasources/*.yml."""

    apiVersion: Literal[1]
    datasources: list[DataSource]


class Provider(Strict):
    """A provider of dashboards."""

    name: str = Field(min_length=1)
    orgId: int = 1
    folder: str = ""
    folderUid: str = ""
    type: Literal["file"]
    disableDeletion: bool = False
    updateIntervalSeconds: int = Field(default=10, ge=1)
    allowUiUpdates: bool = False
    options: dict[Literal["path", "foldersFromFilesStructure"], str | bool]


class Providers(Strict):
    """provisioning/dashboards/*.yml."""

    apiVersion: Literal[1]
    providers: list[Provider]


def test_the_data_source_logs_in() -> None:
    text = data_sources("Prometheus", "http://127.0.0.1:9090", "agevlm", "s3cret")
    (source,) = DataSources.model_validate(yaml.safe_load(text)).datasources
    assert source.basicAuth
    assert (source.basicAuthUser, source.secureJsonData) == ("agevlm", {"basicAuthPassword": "s3cret"})
    assert source.isDefault


@pytest.mark.parametrize("folder", ["/home/a b/ray", "/home/$USER/ray"])
def test_each_folder_of_dashboards_has_a_provider(folder: str) -> None:
    text = dashboard_providers({"agevlm": Path("/p"), "Ray": Path(folder)})
    ours, rays = Providers.model_validate(yaml.safe_load(text)).providers
    assert (ours.name, rays.name) == ("agevlm", "Ray")
    assert str(rays.options["path"]).replace("$$", "$") == folder  # Grafana takes a single $ for a variable


def test_everybody_logs_in_with_the_secret_and_only_on_loopback(tmp_path: Path) -> None:
    ini = configparser.RawConfigParser()
    ini.read_string(settings(3000, tmp_path / "100%", Path("/home/secret")))
    assert ini["server"]["http_addr"] == "127.0.0.1"
    assert ini["auth.anonymous"]["enabled"] == "false"
    assert ini["security"]["admin_password"] == "$__file{/home/secret}"
    assert (ini["security"]["allow_embedding"], ini["security"]["cookie_samesite"]) == ("true", "lax")
    assert ini["users"]["allow_sign_up"] == "false"
    assert ini["analytics"]["reporting_enabled"] == "false"
    assert ini["paths"]["data"] == str(tmp_path / "100%" / "data")


def test_its_own_folder_is_found_beside_the_program(tmp_path: Path) -> None:
    program = tmp_path / "grafana" / "bin" / "grafana"
    program.parent.mkdir(parents=True)
    program.touch()
    (tmp_path / "grafana" / "conf").mkdir()
    (tmp_path / "grafana" / "conf" / "defaults.ini").touch()
    link = tmp_path / "link"
    link.symlink_to(program)
    assert home_path(link) == tmp_path / "grafana"
