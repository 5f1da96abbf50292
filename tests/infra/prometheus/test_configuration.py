"""Prometheus' files: promtool accepts them, the secret is only hashed, and nothing listens beyond loopback."""

import shutil
import subprocess
from pathlib import Path

import bcrypt
import pytest
import yaml

from infra.prometheus.configuration import USER, command, configuration, web_configuration
from pipeline.compute.panels import PANELS

promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def check(*words: str) -> None:
    result = subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "WARNING" not in result.stdout, result.stdout  # a file of targets that it does not find


@promtool
@pytest.mark.parametrize("folder", ["ray", "with a space", "[brackets]", "it's: #1"])
def test_promtool_accepts_both_files(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "targets.json").write_text('[{"targets": ["127.0.0.1:1"], "labels": {"job": "ray"}}]')
    files = tmp_path / folder / "prometheus.yml", tmp_path / folder / "web.yml"
    files[0].write_text(configuration(tmp_path / folder / "targets.json"))
    files[1].write_text(web_configuration("secret"))
    check("check", "config", str(files[0]))
    check("check", "web-config", str(files[1]))


@promtool
def test_promtool_reads_each_panels_query(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{number}", "expr": panel.query} for number, panel in enumerate(PANELS)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    check("check", "rules", str(file))


def test_the_file_holds_a_hash_and_not_the_secret() -> None:
    secret = "ab" * 32
    text = web_configuration(secret)
    hashed = yaml.safe_load(text)["basic_auth_users"][USER]
    assert secret not in text
    assert bcrypt.checkpw(secret.encode(), hashed.encode())
    assert not bcrypt.checkpw(b"other", hashed.encode())


def test_it_listens_on_loopback_and_keeps_a_bounded_amount() -> None:
    words = command("prometheus", 9090, Path("c"), Path("w"), Path("d"))
    assert "--web.listen-address=127.0.0.1:9090" in words
    for start in ("--storage.tsdb.retention.time=", "--storage.tsdb.retention.size=", "--web.config.file="):
        assert any(word.startswith(start) for word in words)
    assert not any("enable-admin-api" in word or "enable-lifecycle" in word for word in words)
