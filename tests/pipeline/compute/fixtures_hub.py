"""A model hub on this machine: what huggingface_hub asks of one, for a repository of a few files."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


@contextmanager
def hub(repository: str, files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """Serve a repository. Gives the endpoint, and a list that gets 'METHOD PATH BYTES' of each request."""
    asked: list[str] = []
    api, resolve = f"/api/models/{repository}", f"/{repository}/resolve/{COMMIT}/"

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            asked.append(f"{self.command} {self.path}")
            path = self.path.split("?")[0]
            if path == f"{api}/revision/{COMMIT}":
                siblings = [{"rfilename": name, "size": len(content)} for name, content in files.items()]
                self.send(json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode())
            elif path == f"{api}/tree/{COMMIT}":
                entries = [
                    {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for name, content in files.items()
                ]
                self.send(json.dumps(entries).encode())
            elif path.startswith(resolve) and path.removeprefix(resolve) in files:
                self.send(files[path.removeprefix(resolve)])
            else:
                self.send_error(404)

        do_GET = do_HEAD = answer

        def send(self, content: bytes) -> None:
            start, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
            if last:
                content = content[int(start) : int(last) + 1]
            self.send_response(206 if last else 200)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                asked[-1] += f" {len(content)}"
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Nothing: the test has `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
