"""A stand-in for the Hugging Face hub. It answers the requests that create, upload and download a repository."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    repositories: dict[str, dict[str, bytes]]
    log: list[str]

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.log.append(f"POST {self.path}")
        if self.headers.get("Authorization") != "Bearer hf_secret":
            self.send(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            request = json.loads(body)
            name = "/".join(part for part in (request.get("organization"), request["name"]) if part)
            self.send(409 if name in self.repositories else 200, {"url": f"{self.base}/{name}", "name": name})
            self.repositories.setdefault(name, {".gitattributes": b""})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
            paths = [file["path"] for file in json.loads(body)["files"]]
            self.send(200, {"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            for line in body.decode().splitlines():
                action = json.loads(line)
                if action["key"] == "file":
                    self.repositories[found[1]][action["value"]["path"]] = base64.b64decode(action["value"]["content"])
            commit = self.commit(found[1])
            url = f"{self.base}/{found[1]}/commit/{commit}"
            self.send(200, {"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})
        else:
            self.send(200, {})

    def answer(self, *, body: bool) -> None:
        self.log.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+|/tree/.*)?", path)
        if found and found[1] in self.repositories:
            files = self.repositories[found[1]]
            if (found[2] or "").startswith("/tree/"):
                listing = [{"type": "file", "path": p, "size": len(c), "oid": digest(c)} for p, c in files.items()]
                return self.send(200, listing, body=body)
            about = {"id": found[1], "sha": self.commit(found[1]), "siblings": [{"rfilename": p} for p in files]}
            return self.send(200, about | {"private": False, "tags": [], "downloads": 0, "likes": 0}, body=body)
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        content = self.repositories.get(found[1], {}).get(found[2]) if found else None
        if content is None:
            known = bool(found) and found[1] in self.repositories
            return self.send(404, {}, {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"}, body=body)
        headers = {"X-Repo-Commit": self.commit(found[1]), "ETag": f'"{digest(content)}"'}
        return self.send(200, content, headers, body=body)

    def send(self, status: int, content: object, headers: dict[str, str] | None = None, *, body: bool = True) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(data)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def commit(self, name: str) -> str:
        return digest(b"".join(self.repositories[name].values()))

    @property
    def base(self) -> str:
        return "http://{}:{}".format(*self.server.server_address)

    def log_message(self, *_: object) -> None:
        pass


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def hub() -> Iterator[tuple[str, dict[str, dict[str, bytes]], list[str]]]:
    """Serve a hub, and yield its address, its repositories (name → path → content) and the log of its requests."""
    handler = type("Fresh", (Handler,), {"repositories": {}, "log": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield "http://{}:{}".format(*server.server_address), handler.repositories, handler.log
    finally:
        server.shutdown()
        server.server_close()
