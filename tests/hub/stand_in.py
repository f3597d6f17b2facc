"""A stand-in of the Hugging Face hub: those of its endpoints that make, fill and read a model's page."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Models by ``user/name``, each with its files by name; ``requests`` lists what was asked for, with its token."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.requests: list[tuple[str, str, str | None]] = []
        self.refuse: int | None = None

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def hub() -> Iterator[Hub]:
    """Run a stand-in."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _answer(self, status, body=b"", kind="application/json", send=True, **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if send:
            self.wfile.write(content)

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _asked(self):
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Authorization")))
        return path.strip("/").split("/")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts, send = self._asked(), self.command == "GET"
        asks_api = parts[:2] == ["api", "models"]
        name, file = "/".join(parts[2:4] if asks_api else parts[:2]), "/".join(parts[4:])
        files = self.server.models.get(name)
        if files is None:
            self._answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound", send=send)
        elif asks_api:
            listed = [{"rfilename": each, "blobId": hashlib.sha1(files[each]).hexdigest()} for each in files]
            about = {"_id": "1", "id": name, "sha": COMMIT, "private": False, "siblings": listed}
            self._answer(200, about, send=send)
        elif file not in files:
            codes = {"X_Error_Code": "EntryNotFound", "X_Repo_Commit": COMMIT}
            self._answer(404, {"error": "Entry not found"}, send=send, **codes)
        else:
            headers = {"ETag": f'"{hashlib.sha1(files[file]).hexdigest()}"', "X_Repo_Commit": COMMIT}
            self._answer(200, files[file], "application/octet-stream", send, **headers)

    def do_POST(self):
        parts, body = self._asked(), self._body()
        action = parts[4] if parts[:2] == ["api", "models"] else "/".join(parts)
        name = "/".join(parts[2:4])
        if self.server.refuse is not None:
            self._answer(self.server.refuse, {"error": "not you"}, X_Error_Message="not you")
        elif action == "api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            self.server.models.setdefault(name, {})
            if asked.get("visibility") == "private":
                self.server.private.add(name)
            self._answer(200, {"url": f"{self.server.endpoint}/{name}", "id": name, "name": name})
        elif action == "api/validate-yaml":
            front = yaml.safe_load(json.loads(body)["content"].split("---\n")[1])
            wrong = [{"message": f"no {key}"} for key in ("license", "library_name") if key not in front]
            self._answer(400 if wrong else 200, {"errors": wrong, "warnings": []})
        elif action == "preupload":
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            self._answer(200, {"files": [{"path": file["path"], **modes} for file in json.loads(body)["files"]]})
        elif action == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.models[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.endpoint}/{name}/commit/{COMMIT}"
            self._answer(200, {"commitUrl": url, "commitOid": COMMIT})
        else:
            self._answer(404, {"error": f"the stand-in has no {self.path}"})
