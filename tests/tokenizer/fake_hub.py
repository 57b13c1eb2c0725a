"""A Hugging Face hub of our own on this machine: the few endpoints that `fetch-weights` needs, and their troubles."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fastdreamer.tokenizer.fetch import FILES, REPO

CONFIG, WEIGHTS = FILES
COMMITS = ("a" * 40, "b" * 40)
SMALL = bytes(range(256)) * 1000


class Hub(ThreadingHTTPServer):
    """The few endpoints that a fetch needs; large files lie on another host, as the real hub's do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files = {CONFIG: b'{"latent_channels": 16}', WEIGHTS: SMALL}
        self.main = COMMITS[0]
        self.tags = {"v1": COMMITS[0], "v2": COMMITS[1]}
        self.log: list[tuple[str, str, str | None, str | None]] = []  # method, path, range, authorization
        self.api_status = self.file_status = 200
        self.error_code = ""
        self.cut_after: list[int] = []  # bytes after which each of the next answers breaks off
        self.wrong = ""  # a file whose content is not what its headers say
        self.silent = False
        self.stall_at: int | None = None
        self.go_on = threading.Event()

    def ranges(self, name: str) -> list[str | None]:
        return [asked for method, path, asked, _ in self.log if method == "GET" and path.endswith(name)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        hub.log.append((self.command, path, self.headers["Range"], self.headers["Authorization"]))
        if hub.silent:
            hub.go_on.wait(5)
            self.close_connection = True
        elif path.startswith(f"/api/models/{REPO}/revision/"):
            name = path.rpartition("/")[2]
            commit = hub.main if name == "main" else hub.tags.get(name, name)
            if hub.api_status != 200 or commit not in COMMITS:
                self.refuse(*((404, "RevisionNotFound") if hub.api_status == 200 else (hub.api_status, "")))
            else:
                self.answer(json.dumps({"id": REPO, "sha": commit, "siblings": []}).encode())
        elif path.startswith("/cdn/"):
            self.answer(hub.files[path.removeprefix("/cdn/")], WEIGHTS)
        elif path.startswith(f"/{REPO}/resolve/"):
            commit, _, name = path.removeprefix(f"/{REPO}/resolve/").partition("/vae/")
            if hub.file_status != 200:
                self.refuse(hub.file_status, hub.error_code)
            elif name == CONFIG:
                data = hub.files[CONFIG]
                etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
                self.answer(data, CONFIG, {"ETag": f'"{etag}"', "X-Repo-Commit": commit})
            else:
                data = hub.files[name]
                told = {"X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Linked-Size": str(len(data))}
                where = f"http://localhost:{hub.server_port}/cdn/{name}"
                self.answer(b"", "", {**told, "X-Repo-Commit": commit, "Location": where}, status=302)
        else:
            self.refuse(401, "RepoNotFound")

    def refuse(self, status: int, code: str) -> None:
        self.answer(b"", "", {"X-Error-Code": code} if code else {}, status)

    def answer(self, data: bytes, name: str = "", headers: dict[str, str] | None = None, status: int = 200) -> None:
        hub, start = self.server, 0
        if name and name == hub.wrong:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if (asked := self.headers["Range"]) and status == 200:
            start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        body = data[start:]
        if name == WEIGHTS and hub.cut_after:
            self.wfile.write(body[: hub.cut_after.pop(0)])
            self.close_connection = True
        elif name == WEIGHTS and hub.stall_at is not None:
            self.wfile.write(body[: hub.stall_at])
            self.wfile.flush()
            hub.go_on.wait(600)
            self.close_connection = True
        else:
            self.wfile.write(body)
