"""An S3-compatible server on the loopback interface that can refuse requests for a while, and counts them."""

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "agevlm-test"


class S3Server:
    """moto's S3 in this process; `refuse` makes it unavailable for a while.

    `environment` makes s3fs use it; `requests` counts requests by method and kind ('LIST' or 'OBJECT').
    """

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._down_until = 0.0
        self.requests: Counter[str] = Counter()
        self.refused = 0
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_QuietHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that boto reads."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def refuse(self, seconds: float) -> None:
        """Answer every request with 503 for this time."""
        self._down_until = time.monotonic() + seconds

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        listing = "list-type" in environ.get("QUERY_STRING", "")
        self.requests[f"{environ['REQUEST_METHOD']} {'LIST' if listing else 'OBJECT'}"] += 1
        if time.monotonic() < self._down_until:
            self.refused += 1
            body = b"<Error><Code>ServiceUnavailable</Code><Message>try again</Message></Error>"
            start_response("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [body]
        found: Iterable[bytes] = self._app(environ, start_response)
        return found


class _QuietHandler(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def s3_in_environment() -> Iterator[S3Server]:
    """A server with an empty bucket that this process, and those that it starts, use as S3."""
    import boto3
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # an earlier instance would ask its server, which is gone
    server = S3Server()
    old = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    try:
        boto3.Session().client("s3").create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.close()
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
