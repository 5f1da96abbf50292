"""Another user of the machine: what the account `nobody` can reach of a stack, without its secret.

`python -m tests.infra.local.fixtures_stranger PORTS FOLDERS...` gives up its rights after its imports, since that
account may be unable to read this project, tries everything, and prints what it reached as JSON.
"""

import encodings.idna  # noqa: F401  # sockets load it late, when this account may not read it
import http.client
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil

from infra.local.processes import family
from infra.local.stack_file import StackState
from pipeline.artifacts.paths import PROJECT

HTTP_PATHS = ("/", "/api/jobs/", "/api/admin/settings", "/api/v0/tasks", "/nodes?view=summary", "/metrics", "/logs")
GRPC_METHODS = (
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/ShutdownRaylet",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.events.EventAggregatorService/AddEvents",
    "/ray.rpc.RayletDriver/ListNamedActors",
    "/ray.rpc.RayletDriver/ClusterInfo",
)
"""Methods of all gRPC servers of Ray; those of another server than the asked one are unknown to it."""
UNKNOWN, REFUSED = "UNIMPLEMENTED", "UNAUTHENTICATED"


@dataclass(frozen=True)
class Reached:
    """The answers to a stranger."""

    http: dict[str, dict[str, int]]
    """Port -> path -> status, of the ports that speak HTTP/1."""
    grpc: dict[str, dict[str, str]]
    """Port -> method -> code of the answer, of the ports that speak gRPC."""
    silent: list[str]
    """Ports that answer neither."""
    files: list[str]
    """Files, folders and sockets that it could open, list, write or connect to."""


def listening(state: StackState) -> dict[int, str]:
    """Every TCP port that a process of a stack listens on, with its address."""
    found: dict[int, str] = {}
    for process in family(state):
        try:
            connections = process.net_connections("tcp")
        except psutil.Error:
            continue  # it ended just now
        found |= {c.laddr.port: c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    return found


def paths_in(folders: Iterable[Path]) -> list[str]:
    """Every path below some folders, with the folders."""
    found: list[str] = []
    for folder in folders:
        found.append(str(folder))
        for base, names, files in os.walk(folder):
            found += [os.path.join(base, name) for name in (*names, *files)]
    return found


def reached_by_stranger(ports: Iterable[int], paths: Iterable[str], host: str = "127.0.0.1") -> Reached:
    """Try these ports and paths as the account `nobody`. Only root can start a process as another user."""
    asked = json.dumps({"host": host, "ports": sorted(ports), "paths": list(paths)})
    command = [sys.executable, "-P", "-m", "tests.infra.local.fixtures_stranger"]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(PROJECT), "GRPC_VERBOSITY": "NONE"}
    done = subprocess.run(
        command, input=asked, env=environment, cwd="/", capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return Reached(**json.loads(done.stdout))


def _http(host: str, port: int) -> dict[str, int]:
    found = {}
    for path in HTTP_PATHS:
        connection = http.client.HTTPConnection(host, port, timeout=10)
        try:
            connection.request("GET", path)
            found[path] = connection.getresponse().status
        finally:
            connection.close()
    return found


def _grpc(host: str, port: int) -> dict[str, str]:
    found = {}
    with grpc.insecure_channel(f"{host}:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        for method in GRPC_METHODS:
            try:
                channel.unary_unary(method)(b"", timeout=10)
                found[method] = "OK"
            except grpc.RpcError as error:
                found[method] = error.code().name
    return found


def _opens(path: str) -> bool:
    """True if a path can be listed, read, written or connected to."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    if stat.S_ISSOCK(mode):
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(path) == 0
    return any(os.access(path, right) for right in (os.R_OK, os.W_OK))


def main() -> None:
    """Read the ports and paths to try from standard input."""
    asked: dict[str, Any] = json.load(sys.stdin)
    account = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
    found: dict[str, Any] = {"http": {}, "grpc": {}, "silent": []}
    for port in asked["ports"]:
        try:
            found["http"][str(port)] = _http(asked["host"], port)
            continue
        except (OSError, http.client.HTTPException):
            answers = _grpc(asked["host"], port)
        if set(answers.values()) <= {"UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"}:
            found["silent"].append(str(port))
        else:
            found["grpc"][str(port)] = answers
    print(json.dumps({**found, "files": [path for path in asked["paths"] if _opens(path)]}))


if __name__ == "__main__":
    main()
